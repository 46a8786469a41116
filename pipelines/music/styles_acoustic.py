"""The styles that need no plug: jazz, blues, country, folk, latin, classical."""

from pipelines.music.styles import EVEN, JIG, SWUNG, SYNCOPATED, WALTZ, Groove, Harmony, Player, Style

JAZZ = Style(
    name="jazz",
    minor_share=0.3,
    scale="diatonic",
    harmony=Harmony(
        major=(
            "ii7 V7 Imaj7 Imaj7 iii7,V7/ii ii7 V7 Imaj7",
            "Imaj7 vi7 ii7 V7 iii7 V7/ii ii7 V7",
            "Imaj7 V7/IV IVmaj7 iv6 iii7 V7/ii ii7,V7 Imaj7",
            "ii7 V7 iii7 vi7 ii7 V7 I6 I6",
        ),
        minor=(
            "i7 i7 iih7 V7 i7 iv7 iih7,V7 i7",
            "iv7 bVII7 bIIImaj7 bVImaj7 iih7 V7 i6 i6",
            "i6 iih7,V7 i6 V7/iv iv7 i6 iih7,V7 i6",
        ),
        grammar_share=0.35,
        sevenths_share=1.0,
        secondary_share=0.3,
        half_cadence_share=0.0,
    ),
    grooves=(
        Groove(
            meter="4/4",
            tempos_bpm=(112, 200),
            patterns={
                "drums": (
                    "RC x...x.x.x...x.x. PH ....x.......x... BD o...?...o...?...",
                    "RC x...x.x.x...x.x. PH ....x.......x... SD ......?......?..",
                    "RC X...x.x.X...x.x. PH ....x.......x... BD o.......o....... SD ..?...o.......o.",
                ),
                "bass": ("R---w---w---a---", "R---w---w---w-a-", "R---w---w---a---"),
                "keys": ("x-....x-........", "..x-......x-....", "x---......x-....", "....x-....x-..x-"),
                "guitar": ("x.......x.......", "x...x...x...x...", "..x.......x....."),
                "lead": SWUNG,
            },
            swing=0.64,
        ),
        Groove(
            meter="3/4",
            tempos_bpm=(120, 172),
            patterns={
                "drums": (
                    "RC x...x.x.x... PH ....x...x... BD x...........",
                    "RC x...x...x.x. PH ....x....... BD o........... SD ......?.....",
                ),
                "bass": ("R---w---a---", "R---5---a---", "R-------a---"),
                "keys": ("..x-....x-..", "x-----x-....", "....x---x-.."),
                "guitar": ("x...x...x...", "....x...x..."),
                "lead": (*WALTZ, "x-x-x-x-x-x-"),
            },
            swing=0.62,
        ),
    ),
    players=(
        Player("drums", "drums", (32, 40, 33), gain_db=-1),
        Player("bass", "bass", (32, 32, 35), 28, 55, gain_db=2),
        Player("keys", "chords", (0, 4, 11, 1, 17), 52, 76, pan=-0.3, gain_db=-2, voices=4, held=0.8),
        Player("guitar", "chords", (26,), 50, 74, pan=0.45, gain_db=-4, voices=4, share=0.4, held=0.6),
        Player("lead", "melody", (66, 65, 56, 59, 64, 71, 26, 73, 57), 55, 82, pan=0.1, sections="vcbo"),
        Player("horn", "double", (57, 66, 60, 67), 48, 74, pan=-0.15, gain_db=-4, share=0.35, sections="c"),
        Player("vibes", "answer", (11, 12), 60, 84, pan=0.35, gain_db=-4, share=0.4, sections="vcb"),
    ),
    jitter_ms=6.0,
    leaps=0.3,
)
BLUES = Style(
    name="blues",
    minor_share=0.25,
    scale="blues",
    harmony=Harmony(
        major=(
            "I7 I7 I7 I7 IV7 IV7 I7 I7 V7 IV7 I7 V7",
            "I7 IV7 I7 I7 IV7 IV7 I7 I7 V7 IV7 I7,IV7 I7,V7",
            "I7 IV7 I7 I7 IV7 IV7 I7 V7/ii ii7 V7 I7 V7",
        ),
        minor=("i7 i7 i7 i7 iv7 iv7 i7 i7 bVI7 V7 i7 V7", "i7 iv7 i7 i7 iv7 iv7 i7 i7 V7 iv7 i7 V7"),
        half_cadence_share=0.0,
    ),
    grooves=(
        Groove(
            meter="4/4",
            tempos_bpm=(84, 136),
            patterns={
                "drums": (
                    "HH X.o.X.o.X.o.X.o. SD ....X.......X... BD X.......X.o.....",
                    "RC X.o.X.o.X.o.X.o. SD ....X.......X.?. BD X...o...X...o...",
                ),
                "bass": ("R---3---5---a---", "R-R-3-3-5-5-a-a-", "R---8---5---a---", "R---w---w---a---"),
                "guitar": ("X-o-X-o-X-o-X-o-", "....x.......x.o.", "X---..o-X---..o-"),
                "keys": ("....x-......x-..", "X-------..o-x---", "x-..X-o-....x-.."),
                "lead": (
                    "..x-x-x-x-------",
                    "x-x-x-x---......",
                    "....x-x-x-x-x-x-",
                    "x-x---x-x-------",
                    "x-----x-x-x-x---",
                ),
                "harp": ("..x-x-x-x---....", "x-x-x---........"),
            },
            swing=0.66,
        ),
        Groove(
            meter="6/8",
            tempos_bpm=(50, 68),
            patterns={
                "drums": (
                    "HH x.x.x.x.x.x. SD ......X..... BD X.........x.",
                    "RC x.x.x.x.x.x. SD ......X....o BD X...........",
                ),
                "bass": ("R-----3---5-", "R---R-5---a-", "R-----5---a-"),
                "guitar": ("..x-x-..x-x-", "X-----x-----"),
                "keys": ("x-x-x-x-x-x-", "X-----x-----"),
                "lead": ("..x-x-x-----", "x-x-x-x-----", "x---x-x---x-", "..x-x-x-x-x-"),
                "harp": ("x-x-x-......", "..x-x-x-...."),
            },
        ),
    ),
    players=(
        Player("drums", "drums", (0, 8, 40)),
        Player("bass", "bass", (32, 33, 35), 28, 52, gain_db=1),
        Player("guitar", "chords", (26, 27, 25), 48, 74, pan=-0.4, gain_db=-2, voices=4, held=0.6),
        Player("keys", "chords", (0, 16, 3, 18, 17), 50, 76, pan=0.35, gain_db=-3, voices=4, share=0.8, sections="vcb"),
        Player("lead", "melody", (27, 29, 66, 22, 26), 55, 81, sections="vcb"),
        Player("harp", "answer", (22, 66, 56, 26), 58, 82, pan=0.2, gain_db=-4, share=0.6, sections="ivcb"),
    ),
    phrase_bars=12,
    jitter_ms=7.0,
    leaps=0.25,
)
COUNTRY = Style(
    name="country",
    minor_share=0.08,
    scale="pentatonic",
    harmony=Harmony(
        major=("I I IV I I I V V", "I IV I V", "I V I IV I V I I", "I I IV IV V V I I", "I vi IV V"),
        minor=("i i iv i i i V V", "i bVII bVI V", "i iv i V"),
        grammar_share=0.3,
        sevenths_share=0.1,
        secondary_share=0.2,
    ),
    grooves=(
        Groove(
            meter="4/4",
            tempos_bpm=(96, 136),
            patterns={
                "drums": (
                    "SD o.oxo.oxo.oxo.ox BD X.......X.......",
                    "HH x.x.x.x.x.x.x.x. SD ....X.......X... BD X.......X.......",
                    "HH ....x.......x... SD ..o.x.o...o.x.o. BD X.......X.......",
                ),
                "bass": ("R-------5-------", "R---5---R---5---", "R-------5---5-a-"),
                "guitar": ("b---d---b---d-u-", "b---d-u-b---d-u-", "....d-......d-u-"),
                "banjo": ("0-2-1-3-0-2-1-3-", "0213021302130213", "2-0-1-3-2-0-1-3-"),
                "keys": ("....x-......x-..", "X---....x---...."),
                "steel": ("X---------------",),
                "lead": EVEN,
                "fiddle": EVEN,
            },
        ),
        Groove(
            meter="3/4",
            tempos_bpm=(92, 132),
            patterns={
                "drums": ("BD X........... SD ....x...x...", "BD X........... HH ....x...x... RS ....o...x..."),
                "bass": ("R-----------", "R-------5---"),
                "guitar": ("b---d---d---", "b---d---d-u-"),
                "banjo": ("0-1-2-3-2-1-", "0-2-1-3-1-2-"),
                "keys": ("....x---x---",),
                "steel": ("X-----------",),
                "lead": WALTZ,
                "fiddle": WALTZ,
            },
        ),
    ),
    players=(
        Player("drums", "drums", (0, 40, 8), gain_db=-2),
        Player("bass", "bass", (32, 33), 28, 50, gain_db=1),
        Player("guitar", "chords", (25, 25, 27), 45, 72, pan=-0.4, voices=4),
        Player(
            "banjo",
            "chords",
            (105, 25, 28),
            55,
            81,
            pan=0.5,
            gain_db=-4,
            voices=4,
            share=0.6,
            sections="ivco",
            held=0.8,
        ),
        Player("keys", "chords", (3, 0), 55, 79, pan=0.25, gain_db=-4, share=0.5, sections="vcb", held=0.8),
        Player("steel", "chords", (26, 48, 18), 60, 84, pan=0.3, gain_db=-7, share=0.5, sections="cbo"),
        Player("lead", "melody", (110, 40, 22, 25, 27, 105), 60, 84, sections="vcb"),
        Player("fiddle", "answer", (110, 22, 27, 15), 62, 86, pan=-0.2, gain_db=-4, share=0.7, sections="ivcb"),
    ),
)
FOLK = Style(
    name="folk",
    minor_share=0.35,
    scale="diatonic",
    harmony=Harmony(
        major=("I I V I I IV V I", "I IV I V I IV V I", "I V vi IV I V IV,V I", "I ii V I"),
        minor=("i i bVII i i bVI V i", "i bVII i V i bVII bVI,V i", "i bIII bVII i"),
        grammar_share=0.4,
        sevenths_share=0.05,
    ),
    grooves=(
        Groove(
            meter="3/4",
            tempos_bpm=(108, 168),
            patterns={
                "drums": ("BD x........... TB ....x...x...", "SH x...o...o..."),
                "bass": ("R-----------", "R-------5---"),
                "guitar": ("b---t---t---", "b---d---d-u-", "0-1-2-3-2-1-"),
                "accordion": ("X-----------", "....x---x---"),
                "lead": WALTZ,
            },
        ),
        Groove(
            meter="6/8",
            tempos_bpm=(88, 124),
            patterns={
                "drums": ("BD x.....x..... TB ....x.....x.", "LB x...o.x...o. TB ......x....."),
                "bass": ("R-----5-----", "R-----R-----"),
                "guitar": ("d---u-d---u-", "b---d-b---d-"),
                "accordion": ("X-----------", "X-----x-----"),
                "lead": JIG,
            },
        ),
    ),
    players=(
        Player("drums", "drums", (40, 48, 0), gain_db=-4, share=0.5, sections="vco"),
        Player("bass", "bass", (32, 43), 28, 50),
        Player("guitar", "chords", (24, 25, 46, 15), 48, 76, pan=-0.3, voices=4),
        Player("accordion", "chords", (21, 23, 20, 109), 55, 79, pan=0.35, gain_db=-5, share=0.7, sections="cbo"),
        Player("lead", "melody", (73, 72, 74, 78, 110, 40, 21, 79), 62, 88, gain_db=1),
        Player("second", "double", (71, 68, 41, 74, 110), 57, 81, pan=0.2, gain_db=-4, share=0.5, sections="co"),
    ),
    jitter_ms=6.0,
    fills={},
)
LATIN = Style(
    name="latin",
    minor_share=0.55,
    scale="diatonic",
    harmony=Harmony(
        major=("I IV V IV", "Imaj7 ii7 V7 Imaj7", "ii7 V7 Imaj7 vi7", "I V7/ii ii7 V7"),
        minor=("i iv V7 i", "i bVII bVI V7", "iih7 V7 i7 i7", "i7 iv7 V7 i7"),
        grammar_share=0.25,
        sevenths_share=0.6,
        secondary_share=0.25,
    ),
    grooves=(
        Groove(  # son and salsa over the clave
            meter="4/4",
            tempos_bpm=(88, 112),
            patterns={
                "drums": (
                    "CL x..x..x.....x...x.......x..x.... HC ..o...xx..o...xx LC ......o.......o. CB x...x...x...x...",
                    "CL ..x.x...x..x..x. MC x.o.o.oox.o.o.oo HC ......x.......xx MA x.xxx.xxx.xxx.xx",
                    "CB x.x.x.x.x.x.x.x. TH ....x.....x...x. LC o.......o..o.... CA x..xx..xx..xx..x",
                ),
                "bass": ("R-----5-----8---", "R-----5-----a---", "R-----R-5---a---"),
                "piano": ("x-xx.xx.xx.xx.x-", "0-1203-21-2031-2", "x.x-.x-x.x-x.x-."),
                "guitar": ("..x-..x-..x-..x-", "d---d-u---u-d-u-"),
                "strings": ("X---------------",),
                "lead": SYNCOPATED,
                "brass": ("x--x--x---......", "..x-x-..x---....", "x-x-..x-x-......"),
            },
        ),
        Groove(  # bossa nova
            meter="4/4",
            tempos_bpm=(112, 144),
            patterns={
                "drums": (
                    "HH X.x.X.x.X.x.X.x. RS x.....x.....x.......x.....x..... BD X.....o.X.....o.",
                    "SH XoxoXoxoXoxoXoxo RS ....x.....x.....x.....x.....x... BD X.....o.X.....o.",
                ),
                "bass": ("R-----5-5-----R-", "R-----5-R-----5-"),
                "piano": ("x-....x-..x-....", "x-----x-....x---....x-....x-....", "X---..x-....x---"),
                "guitar": ("X-..x-x-..x-..x-", "b---t-..b-..t---", "X-..x-..x-..x---X-....x-..x-x-.."),
                "strings": ("X---------------",),
                "lead": (*SYNCOPATED, "x-------..x-x---"),
                "brass": ("..x-x---x---....", "x-----x-x---...."),
            },
        ),
    ),
    players=(
        Player("drums", "drums", (0, 32, 8), gain_db=-1),
        Player("bass", "bass", (32, 33, 35), 28, 52, gain_db=1),
        Player("piano", "chords", (0, 1, 12, 4), 55, 81, pan=-0.3, gain_db=-2, voices=4, held=0.8),
        Player("guitar", "chords", (24, 25), 48, 76, pan=0.4, gain_db=-1, voices=4, held=0.8, share=0.8),
        Player("strings", "chords", (48, 52, 49), 60, 84, pan=0.1, gain_db=-8, share=0.3, sections="cb"),
        Player("lead", "melody", (56, 66, 73, 11, 64, 71, 57, 24), 58, 84, sections="vcb"),
        Player(
            "brass", "answer", (61, 57, 56, 65), 57, 81, pan=-0.15, gain_db=-4, share=0.7, sections="ivcb", held=0.8
        ),
    ),
    jitter_ms=5.0,
)
CLASSICAL = Style(
    name="classical",
    minor_share=0.4,
    scale="diatonic",
    harmony=Harmony(
        major=("I IV V I", "I ii V I", "I V I V I IV V I", "I vi ii V I IV I,V I"),
        minor=("i iv V i", "i V i V i iv V i", "i bVI iio V i iv i,V i"),
        grammar_share=0.85,
        sevenths_share=0.15,
        secondary_share=0.25,
        half_cadence_share=0.5,
    ),
    grooves=(
        Groove(
            meter="4/4",
            tempos_bpm=(76, 132),
            patterns={
                "bass": ("R-------5-------", "R---R---5---a---", "R---3---5---R---", "R---------------"),
                "keys": ("0-2-1-2-0-2-1-2-", "0-1-2-3-2-1-2-1-", "b---t---b---t---", "0212021202120212"),
                "strings": ("X---------------", "x-x-x-x-x-x-x-x-", "X-------x-------"),
                "lead": (*EVEN, "x-xxx-xxx---x---", "x---x-xxx---x---"),
                "winds": EVEN,
            },
        ),
        Groove(
            meter="3/4",
            tempos_bpm=(84, 150),
            patterns={
                "bass": ("R-----------", "R-------5---", "R---3---5---"),
                "keys": ("b---t---t---", "0-2-1-2-1-2-", "0-1-2-3-2-1-"),
                "strings": ("....x---x---", "X-----------"),
                "lead": WALTZ,
                "winds": WALTZ,
            },
        ),
    ),
    players=(
        Player("bass", "bass", (42, 43, 70, 32), 36, 57, gain_db=1, held=0.9),
        Player("keys", "chords", (0, 6, 46, 0, 24), 52, 79, pan=-0.25, gain_db=-1, voices=4),
        Player("strings", "chords", (48, 45, 44, 49, 52, 19), 52, 79, pan=0.2, gain_db=-4, voices=4, share=0.8),
        Player("lead", "melody", (73, 40, 68, 71, 0, 41, 56), 60, 86, pan=0.05, gain_db=1),
        Player("second", "double", (40, 68, 71, 69, 60), 55, 81, pan=-0.1, gain_db=-3, share=0.6, sections="co"),
        Player("winds", "answer", (73, 71, 60, 70, 9), 58, 84, pan=0.35, gain_db=-3, share=0.6, sections="vcb"),
    ),
    jitter_ms=8.0,
    dynamics=0.6,
    leaps=0.25,
    fills={},
)
