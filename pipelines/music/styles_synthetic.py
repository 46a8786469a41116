"""The styles of machines: electronic dance music and ambient."""

from pipelines.music.styles import LONG, Groove, Harmony, Player, Style

ELECTRONIC = Style(
    name="electronic",
    minor_share=0.75,
    scale="diatonic",
    harmony=Harmony(
        major=("I V vi IV", "I IV vi V", "I V IV I", "I I IV IV"),
        minor=("i bVI i bVII", "i i bVI bVII", "i bVII iv bVI", "bVI bVII i i", "i bIII iv i", "i i i i"),
        half_cadence_share=0.1,
    ),
    grooves=(
        Groove(  # house and trance: four on the floor
            meter="4/4",
            tempos_bpm=(118, 140),
            patterns={
                "drums": (
                    "BD X...X...X...X... OH ..x...x...x...x. CP ....X.......X...",
                    "BD X...X...X...X... HH x.xox.xox.xox.xo OH ..x...x...x...x. CP ....X.......X...",
                    "BD X...X...X...X..x OH ..x...x...x...x. SD ....X.......X... SH oooooooooooooooo",
                ),
                "bass": ("..R-..R-..R-..R-", ".RRR.RRR.RRR.RRR", "R-..R-R-..R-R-..", "R-R-R-R-R-R-R-R-"),
                "stabs": ("x..x..x..x..x.x.", "X---............", "..x...x...x...x.", "x..x..x...x.x..."),
                "pad": ("X---------------",),
                "arpeggio": ("0123012301230123", "0.1.2.3.2.1.2.1.", "012.120.201.012.", "3210321032103210"),
                "lead": (
                    "x--x--x-x--x--x-",
                    "x--x--x---x-x---",
                    "x-x-x-x-x-x-x---",
                    "x---..x-x---..x-",
                    "x-xx-xx-x-x-x---",
                ),
            },
        ),
        Groove(  # broken beats
            meter="4/4",
            tempos_bpm=(160, 176),
            patterns={
                "drums": (
                    "HH x.x.x.x.x.x.x.x. SD ....X..o.o..X... BD X.x.......x.....",
                    "RC x.x.x.x.x.x.x.x. SD ....X..o.o..X..o BD X.........X.....",
                    "HH xoxoxoxoxoxoxoxo SD ....X.......X... BD X.....x...x.....",
                ),
                "bass": ("R-----..R-----..", "R-------------..", "R---..R---..R-a-"),
                "stabs": ("X---............", "x..x..x........."),
                "pad": ("X---------------",),
                "arpeggio": ("0-1-2-3-2-1-2-1-", "0123012301230123"),
                "lead": (*LONG, "x-----x-----x---"),
            },
        ),
    ),
    players=(
        Player("drums", "drums", (25, 24, 16), gain_db=2),
        Player("bass", "bass", (38, 39), 28, 50, gain_db=2, held=0.8, sections="ivco"),
        Player(
            "stabs", "chords", (62, 63, 81, 16, 0, 90), 52, 77, pan=-0.3, gain_db=-4, voices=4, sections="vco", held=0.7
        ),
        Player("pad", "chords", (89, 90, 94, 95, 91, 51), 52, 79, gain_db=-6, voices=4, sections="ivcbo"),
        Player(
            "arpeggio", "chords", (81, 80, 84, 87, 88, 98), 60, 86, pan=0.35, gain_db=-6, voices=4, share=0.8, held=0.7
        ),
        Player("lead", "melody", (81, 80, 87, 86, 83, 82), 62, 86, pan=0.05, gain_db=-3, sections="cb"),
    ),
    jitter_ms=0.5,
    dynamics=0.2,
)
AMBIENT = Style(
    name="ambient",
    minor_share=0.4,
    scale="pentatonic",
    harmony=Harmony(
        major=("Imaj7 IVmaj7", "I vi7 IVmaj7 I", "Imaj9 vi7 IVmaj7 Isus2", "I iii7 IVmaj7 vi7"),
        minor=("i7 bVImaj7", "i bVII bVImaj7 bIII", "i9 iv7 bVImaj7 i7", "i bIII iv7 i"),
        half_cadence_share=0.0,
        bars_per_chord=2,
    ),
    grooves=(
        Groove(
            meter="4/4",
            tempos_bpm=(56, 80),
            patterns={
                "drums": ("BD x............... SH ..o...o...o...o.", "BD x.........o..... RC x.......o......."),
                "bass": ("R---------------", "R-------5-------"),
                "pad": ("X---------------",),
                "air": ("X---------------",),
                "harp": ("0---1---2---3---", "0-1-2-3-4-3-2-1-", "0---..2---1-....", "3---2---1---0---"),
                "bells": LONG,
                "lead": LONG,
            },
        ),
        Groove(
            meter="3/4",
            tempos_bpm=(60, 84),
            patterns={
                "drums": ("BD x........... SH ....o...o...",),
                "bass": ("R-----------",),
                "pad": ("X-----------",),
                "air": ("X-----------",),
                "harp": ("0-1-2-3-2-1-", "0---2---1---", "0---1---3---"),
                "bells": ("x-----------", "x-------x---"),
                "lead": ("x-----------", "x-------x---", "x---x-------"),
            },
        ),
    ),
    players=(
        Player("drums", "drums", (25, 40, 48), gain_db=-4, share=0.35, sections="vcb"),
        Player("bass", "bass", (39, 35, 32), 28, 50, gain_db=-2, share=0.8, sections="vcb"),
        Player("pad", "chords", (89, 88, 91, 94, 95, 92, 49), 48, 76, pan=-0.2, gain_db=-4, voices=4, held=1.0),
        Player("air", "chords", (91, 52, 93, 54, 99), 60, 84, pan=0.3, gain_db=-7, share=0.6, sections="cbo", held=1.0),
        Player("harp", "chords", (46, 11, 4, 0, 24, 8, 98), 60, 88, pan=0.25, gain_db=2, voices=5, held=1.0),
        Player("lead", "melody", (75, 73, 77, 79, 82, 42, 53), 62, 84, gain_db=-2, sections="vcb", held=1.0),
        Player("bells", "answer", (10, 14, 9, 108), 72, 93, pan=-0.4, gain_db=-5, share=0.5, sections="icbo"),
    ),
    jitter_ms=6.0,
    dynamics=0.3,
    leaps=0.3,
    fills={},
)
