"""The forms in which published corpora come: tables, segment lists, ontologies, annotations, MIDI, split lists."""
