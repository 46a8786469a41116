"""The styles that need a plug: rock, pop, metal, reggae, disco, hip hop, electronic, ambient."""

from pipelines.music.styles import EVEN, SYNCOPATED, Groove, Harmony, Player, Style

_WHOLE = ("X---------------", "X---------------X-------x-------")

ROCK = Style(
    name="rock",
    minor_share=0.35,
    scale="pentatonic",
    harmony=Harmony(
        major=("I V vi IV", "I IV V IV", "I bVII IV I", "I I IV V", "I IV vi V", "I V IV I"),
        minor=("i bVI bVII i", "i bVII bVI bVII", "i iv bVI V", "i bIII iv V", "i bVI bIII bVII"),
        grammar_share=0.25,
        sevenths_share=0.05,
    ),
    grooves=(
        Groove(
            meter="4/4",
            tempos_bpm=(104, 156),
            patterns={
                "drums": (
                    "HH x.x.x.x.x.x.x.x. SD ....X.......X... BD X.......X.x.....",
                    "HH X.x.X.x.X.x.X.x. SD ....X.......X..o BD X..x....X.x.....",
                    "RC x...x...x...x... SD ....X.......X... BD X.x.....X.x...x.",
                    "OH x...x...x...x... SD ....X.......X... BD X.....x.X.......",
                ),
                "bass": ("R-R-R-R-R-R-R-R-", "R-R-R-R-R-R-5-a-", "R---R-R---R-R-a-", "R-R-8-R-R-R-5-R-"),
                "rhythm guitar": ("X-x-x-X-x-x-X-x-", "X---x-x---x-x---", "X-------x---x-x-", "X-x-X-x-X-x-X-x-"),
                "guitar": ("0-2-1-2-0-2-1-2-", "d---d-u---u-d-u-", "X-------........"),
                "keys": _WHOLE,
                "lead": (*EVEN, *SYNCOPATED),
            },
        ),
        Groove(
            meter="6/8",
            tempos_bpm=(52, 72),
            patterns={
                "drums": (
                    "HH x.x.x.x.x.x. SD ......X..... BD X.........x.",
                    "RC x.x.x.x.x.x. SD ......X..... BD X...x.....x.",
                ),
                "bass": ("R-----5---a-", "R---R-R---a-", "R-----R-5-3-"),
                "rhythm guitar": ("X-----x-----", "X-----x---x-"),
                "guitar": ("0-1-2-3-2-1-", "0-2-1-3-1-2-"),
                "keys": ("X-----------",),
                "lead": ("x---x-x-----", "x-x-x-x-----", "x-----x---x-", "x---x-x---x-"),
            },
        ),
    ),
    players=(
        Player("drums", "drums", (0, 8, 16, 1, 9)),
        Player("bass", "bass", (33, 34, 36), 28, 52),
        Player("rhythm guitar", "power", (29, 30), 40, 67, pan=-0.55, gain_db=-5, sections="vcbo", held=0.9),
        Player("guitar", "chords", (27, 28, 25), 48, 76, pan=0.55, gain_db=-2, voices=4),
        Player("keys", "chords", (18, 16, 0, 4, 48), 52, 79, pan=0.2, gain_db=-5, share=0.6, sections="ivcb"),
        Player("lead", "melody", (29, 30, 65, 22, 66, 81), 57, 81, pan=0.05, gain_db=-1, sections="vcb"),
        Player("backing", "double", (53, 52, 27, 18), 52, 79, pan=-0.3, gain_db=-6, share=0.4, sections="c"),
    ),
)
POP = Style(
    name="pop",
    minor_share=0.3,
    scale="diatonic",
    harmony=Harmony(
        major=("I V vi IV", "I vi IV V", "I IV vi V", "I IV ii V", "I iii IV V", "I IV I V", "Imaj7 vi7 ii7 V7"),
        minor=("i bVI iv V", "i bVII bVI V", "i iv V i", "bVI bVII i i", "i bVI bIII bVII"),
        grammar_share=0.3,
        sevenths_share=0.2,
        secondary_share=0.1,
    ),
    grooves=(
        Groove(
            meter="4/4",
            tempos_bpm=(88, 128),
            patterns={
                "drums": (
                    "HH x.x.x.x.x.x.x.x. SD ....X.......X... BD X.....x.X.x.....",
                    "HH x.xox.x.x.xox.x. SD ....X.......X... BD X..x..x...x.....",
                    "HH x.x.x.x.x.x.x.x. CP ....X.......X... BD X...x...x...x... SH o?o?o?o?o?o?o?o?",
                    "HH x.x.x.xoxox.x.x. RS ....x.......x... BD X.......x.x.....",
                ),
                "bass": ("R-----R-R-----5-", "R-------R---R-a-", "R--R--R-R--R--a-", "R-R-..R-R-R-..a-"),
                "keys": ("X---x---x---x---", "X-----x---x-----", "0-2-1-2-0-2-1-2-", "X-------x-------"),
                "guitar": ("d---d-u---u-d-u-", "d-u-d-u-d-u-d-u-", "0-1-2-3-2-1-2-1-", "..x...x...x...x."),
                "pad": _WHOLE,
                "lead": (*SYNCOPATED, *EVEN),
                "bells": EVEN,
            },
        ),
        Groove(
            meter="6/8",
            tempos_bpm=(54, 74),
            patterns={
                "drums": (
                    "HH x.x.x.x.x.x. SD ......X..... BD X...........",
                    "HH x.x.x.x.x.x. RS ......x..... BD X.........x.",
                ),
                "bass": ("R---------5-", "R-----5-----", "R-----R---a-"),
                "keys": ("0-1-2-3-2-1-", "X-----x-----", "b-t-t-b-t-t-"),
                "guitar": ("0-1-2-3-2-1-", "d---u-d---u-"),
                "pad": ("X-----------",),
                "lead": ("x---x-x-----", "x-x-x-x---x-", "x-----x---x-", "..x-x-x-----"),
                "bells": ("x-----x-----", "x---x-x-----"),
            },
        ),
    ),
    players=(
        Player("drums", "drums", (0, 8, 24, 25, 10)),
        Player("bass", "bass", (33, 38, 39, 35), 28, 52),
        Player("keys", "chords", (0, 1, 4, 5, 2), 52, 79, pan=-0.25, gain_db=-2, voices=4),
        Player("guitar", "chords", (25, 27, 24), 48, 76, pan=0.5, gain_db=-3, voices=4, share=0.7, sections="vcb"),
        Player("pad", "chords", (48, 50, 89, 90, 52, 49, 91), 55, 81, pan=0.1, gain_db=-7, sections="icbo"),
        Player("lead", "melody", (53, 54, 81, 80, 73, 65, 85, 64), 60, 84, gain_db=0, sections="vcb"),
        Player("backing", "double", (52, 53, 54), 55, 79, pan=-0.35, gain_db=-5, share=0.5, sections="c"),
        Player("bells", "answer", (9, 11, 10, 12, 56), 67, 91, pan=0.4, gain_db=-4, share=0.6, sections="vcb"),
    ),
)
METAL = Style(
    name="metal",
    minor_share=0.95,
    scale="diatonic",
    harmony=Harmony(
        major=("I bVI bVII I", "I IV bVII I"),
        minor=("i i bVI bVII", "i bVI i V", "i bVII bVI V", "i i bIII bVI", "i bVI bVII i", "i iv bVI V"),
        half_cadence_share=0.7,
    ),
    grooves=(
        Groove(
            meter="4/4",
            tempos_bpm=(132, 188),
            patterns={
                "drums": (
                    "HH x.x.x.x.x.x.x.x. SD ....X.......X... BD X.xxx.xxX.xxx.xx",
                    "RC x...x...x...x... SD ....X.......X... BD xxxxxxxxxxxxxxxx",
                    "OH x...x...x...x... SD ....X.......X... BD X.xxX...X.xxX...",
                    "OH x...x...x...x... SD ........X....... BD X..x..X.X..x..X.",
                ),
                "bass": ("R-RRR-RRR-RRR-RR", "RRRRRRRRRRRRRRRR", "R-R-R-R-R-R-R-R-", "R--R--R-R--R--5-"),
                "rhythm guitar": ("X-xxX-xxX-xxX-xx", "XxxxXxxxXxxxXxxx", "X--X--X-X--X--X-", "X-------X---X-x-"),
                "second guitar": ("X-xxX-xxX-xxX-xx", "X-------X---X-x-", "X---------------"),
                "keys": ("X---------------",),
                "lead": (
                    "x-x-x-x-x-x-x-x-",
                    "x---x-x-x---x-x-",
                    "x-xxx-xxx-x-x---",
                    "x-------x-x-x-x-",
                    "x---x---x-x-x-x-",
                ),
            },
        ),
    ),
    players=(
        Player("drums", "drums", (16, 0, 17, 8), gain_db=1),
        Player("bass", "bass", (34, 33), 28, 50, gain_db=1),
        Player("rhythm guitar", "power", (30, 29), 40, 65, pan=-0.75, gain_db=-4, held=0.85),
        Player("second guitar", "power", (30, 29, 84), 40, 65, pan=0.75, gain_db=-5, sections="vcbo", held=0.85),
        Player("keys", "chords", (48, 52, 19, 49, 90), 52, 77, gain_db=-6, voices=4),
        Player("lead", "melody", (30, 29, 84), 59, 86, pan=0.15, gain_db=-1, sections="vcb"),
        Player("twin lead", "double", (30, 29), 55, 81, pan=-0.2, gain_db=-3, share=0.5, sections="cb"),
    ),
    jitter_ms=3.0,
    dynamics=0.2,
)
REGGAE = Style(
    name="reggae",
    minor_share=0.45,
    scale="pentatonic",
    harmony=Harmony(
        major=("I IV I V", "I V vi IV", "I ii I ii", "I I IV V", "I vi ii V"),
        minor=("i iv i iv", "i bVII bVI bVII", "i i iv V", "i bVI iv V"),
        grammar_share=0.15,
        sevenths_share=0.2,
        half_cadence_share=0.3,
    ),
    grooves=(
        Groove(
            meter="4/4",
            tempos_bpm=(68, 92),
            patterns={
                "drums": (
                    "HH x.xox.xox.xox.xo RS ........X....... BD ........X.......",
                    "HH x.x.x.x.x.x.x.x. RS ........X.....?. BD x.......X.......",
                    "HH x.xox.xox.xox.xo SD ........X....... BD X...x...X...x...",
                ),
                "bass": ("R---..R-5-R-..3-", "R-----3-5---....", "R--R..R---5-8-5-", "R---R-3-..5-..a-"),
                "skank": ("....x.......x...", "....x.......x.x.", "....x..x....x..."),
                "organ": ("..b.t.b...b.t.b.", "..b.t.b.t.b.t.b.", "..x...x...x...x."),
                "keys": ("....x.......x...", "X-------........"),
                "lead": (*SYNCOPATED, "x-x---x-x-------", "..x-x---x-x-----"),
                "horns": ("..x-x---x-------", "x--x--x---......"),
            },
            swing=0.56,
            swung_pairs_per_beat=2,
        ),
    ),
    players=(
        Player("drums", "drums", (0, 8, 11)),
        Player("bass", "bass", (33, 35, 38), 28, 52, gain_db=2),
        Player("skank", "chords", (27, 28, 26), 55, 79, pan=-0.45, gain_db=-1, held=0.5),
        Player("organ", "chords", (16, 17, 18), 50, 77, pan=0.4, gain_db=-4, voices=4, held=0.6),
        Player("keys", "chords", (0, 7, 4), 55, 79, pan=0.2, gain_db=-4, share=0.6, held=0.6, sections="vcb"),
        Player("lead", "melody", (66, 53, 22, 57, 75), 55, 79, sections="vcb"),
        Player("horns", "answer", (61, 57, 56, 65), 57, 81, pan=-0.2, gain_db=-4, share=0.8, sections="ivcb"),
    ),
)
DISCO = Style(
    name="disco",
    minor_share=0.65,
    scale="diatonic",
    harmony=Harmony(
        major=("Imaj7 vi7 ii7 V7", "I IV I V", "Imaj7 iii7 IVmaj7 V", "I vi IV V"),
        minor=("i7 iv7 bVII7 i7", "i7 bVII bVImaj7 V7", "i7 iv7 i7 V7", "i7 bVImaj7 iv7 V7"),
        grammar_share=0.2,
        sevenths_share=0.7,
        secondary_share=0.1,
    ),
    grooves=(
        Groove(
            meter="4/4",
            tempos_bpm=(108, 128),
            patterns={
                "drums": (
                    "HH x.ooxo.ox.ooxo.o OH ..x...x...x...x. SD ....X.......X... BD X...X...X...X...",
                    "HH x...x...x...x... OH ..X...X...X...X. CP ....X.......X... BD X...X...X...X...",
                    "HH xoxoxoxoxoxoxoxo SD ....X.......X..? BD X...X...X...X... TB ....x.......x...",
                ),
                "bass": ("R-8-R-8-R-8-R-8-", "R-8-R-8-R-5-8-a-", "R--R8-R-R--R8-a-", "R-..R-8-..R-8-a-"),
                "guitar": ("..x.x.xx..x.x.xx", "x.xx..x.x.xx..x.", "xxx.x.xxx.x.x.x."),
                "keys": ("X---..x---x-....", "x--x--x---x-x---", "X-------x-------"),
                "strings": _WHOLE,
                "lead": (*SYNCOPATED, "x-x-x-x---x-x---"),
                "brass": ("x-x-..x-x-......", "..x-x-x-x---....", "x--x--x---x-x-x-"),
            },
        ),
    ),
    players=(
        Player("drums", "drums", (0, 24, 9, 8)),
        Player("bass", "bass", (36, 33, 34, 38), 28, 55, gain_db=1, held=0.8),
        Player("guitar", "chords", (27, 28), 57, 81, pan=0.5, gain_db=-3, held=0.5, sections="ivcb"),
        Player("keys", "chords", (4, 7, 5, 1), 52, 77, pan=-0.4, gain_db=-3, voices=4),
        Player("strings", "chords", (48, 50, 49, 44), 60, 86, pan=0.15, gain_db=-6, sections="icbo"),
        Player("lead", "melody", (53, 65, 73, 81, 64, 40), 60, 84, sections="vcb"),
        Player("brass", "answer", (61, 62, 56, 63), 58, 82, pan=-0.2, gain_db=-4, sections="vcb", held=0.7),
    ),
    jitter_ms=3.0,
    dynamics=0.3,
)
HIPHOP = Style(
    name="hiphop",
    minor_share=0.85,
    scale="pentatonic",
    harmony=Harmony(
        major=("Imaj7 vi7", "ii7 V7 Imaj7 Imaj7", "I I IV IV"),
        minor=("i7 iv7", "i i bVI V", "i bVI", "i7 i7 bVImaj7 bVII", "i iv bVI V", "bVImaj7 V7 i7 i7"),
        sevenths_share=0.5,
        half_cadence_share=0.2,
    ),
    grooves=(
        Groove(
            meter="4/4",
            tempos_bpm=(78, 100),
            patterns={
                "drums": (
                    "HH x.x.x.x.x.x.x.x. SD ....X.......X... BD X..x......xx....",
                    "HH x.xxx.x.x.xxx.x. CP ....X.......X... BD X.....x...x..x..",
                    "HH xxx.x.x.xxx.xxxx SD ....X..o.o..X... BD X.x.......x.....",
                    "HH x.x.x.x.x.x.x.x. SD ....X.......X... BD X..X..x.x.x..... SH o.o.o.o.o.o.o.o.",
                ),
                "bass": ("R-----..R-....a-", "R--R------R---..", "R-----------8-..", "R---..R-..R-5-.."),
                "keys": ("X---------------", "X--x------x-----", "0-2-1-3-2-1-2-1-", "X-----x---------"),
                "loop": ("0-..2-1-..3-2-1-", "0---1---2---1---", "3-2-1-0-..1-2-..", "0-1-2-1-3-1-2-1-"),
                "pad": ("X---------------",),
                "lead": (
                    "x--x--x---......",
                    "....x--x--x-....",
                    "x-x---x---......",
                    "x---x-x-........",
                    "..x-x--x........",
                ),
            },
            swing=0.58,
            swung_pairs_per_beat=2,
        ),
    ),
    players=(
        Player("drums", "drums", (25, 24, 8, 0), gain_db=2),
        Player("bass", "bass", (38, 39, 33, 32), 28, 48, gain_db=3),
        Player("keys", "chords", (4, 5, 0, 2, 11), 50, 74, pan=-0.2, gain_db=-2, voices=4),
        Player("loop", "chords", (46, 11, 45, 24, 26, 10), 60, 84, pan=0.3, gain_db=-2, voices=4, share=0.8),
        Player("pad", "chords", (49, 89, 91, 52), 55, 79, gain_db=-8, share=0.5, sections="cbo"),
        Player("lead", "melody", (80, 73, 81, 56, 77, 71), 60, 84, pan=0.1, gain_db=-2, sections="ivcb"),
    ),
    dynamics=0.3,
)
