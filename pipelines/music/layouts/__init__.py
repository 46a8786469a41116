"""How composed music is written in a published layout, where its corpus file has no room for it."""
