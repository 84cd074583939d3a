"""The words of the world. In each list the first entry is the plainest and commonest.

Motions are pairs (third person, gerund); nothing here depends on a scene.
"""

SHAPES = {
    "circle": ("circle", "disc", "ball"),
    "square": ("square", "block", "box"),
    "triangle": ("triangle", "wedge"),
    "star": ("star", "five-pointed star"),
    "heart": ("heart", "heart shape"),
    "diamond": ("diamond", "rhombus"),
    "cross": ("cross", "plus sign"),
    "ring": ("ring", "hoop"),
    "crescent": ("crescent", "half moon"),
    "arrow": ("arrow", "arrow sign"),
}
COLOURS = {
    "red": ("red", "crimson", "scarlet"),
    "orange": ("orange", "tangerine"),
    "yellow": ("yellow", "golden"),
    "green": ("green", "emerald"),
    "cyan": ("cyan", "turquoise", "light blue"),
    "blue": ("blue", "deep blue"),
    "purple": ("purple", "violet"),
    "pink": ("pink", "rosy"),
    "brown": ("brown", "chocolate colored"),
    "white": ("white", "snow white"),
    "black": ("black", "jet black"),
}
SIZES = {
    "small": ("small", "little", "tiny"),
    "medium": ("medium", "mid-sized", "medium-sized"),
    "large": ("large", "big", "huge"),
}
TEXTURES = {
    "plain": ("plain", "solid", "smooth"),
    "striped": ("striped", "banded"),
    "dotted": ("dotted", "spotted"),
    "checkered": ("checkered", "checked"),
    "two-tone": ("two-tone", "two-toned"),
}
TEXTURE_SENTENCES = {
    "plain": (
        "{The} surface of {it} is plain, without any pattern.",
        "{It} is filled with one even color.",
    ),
    "striped": (
        "Vertical stripes run across {it}.",
        "{It} is covered in stripes.",
    ),
    "dotted": ("Round dots cover {it}.", "{It} carries a pattern of dots."),
    "checkered": (
        "{It} has a checkered pattern like a chess board.",
        "A pattern of checks covers {it}.",
    ),
    "two-tone": (
        "{It} is split into two tones, one half darker than the other.",
        "One half of {it} is darker than the other half.",
    ),
}
SHAPE_SENTENCES = {
    "circle": ("Its outline is perfectly round.", "It has no corners at all."),
    "square": ("It has four equal sides.", "Its four corners are right angles."),
    "triangle": ("It has three pointed corners.", "Three straight sides form it."),
    "star": ("Its outline has five points.", "Five points reach out from its middle."),
    "heart": ("Two round lobes meet above its tip.", "It ends in a tip below."),
    "diamond": ("It stands on one of its corners.", "It is taller than it is wide."),
    "cross": ("It has four equal arms.", "Four arms meet in its middle."),
    "ring": ("A round hole opens in its middle.", "Its middle is empty."),
    "crescent": ("It curves like a young moon.", "Two thin horns end its curve."),
    "arrow": (
        "Its head is a wide point on a shaft.",
        "A shaft carries its pointed head.",
    ),
}
THEMES = {
    "beach": (
        "on a beach",
        "on a sandy beach",
        "at the seaside",
        "by the sea shore",
    ),
    "forest": (
        "in a forest",
        "in a dark green forest",
        "in the woods",
        "among pine trees",
    ),
    "desert": (
        "in a desert",
        "in the sandy desert",
        "among desert dunes",
        "between dunes and cacti",
    ),
    "city": (
        "in a city",
        "in front of city buildings",
        "on a city street",
        "downtown among tall buildings",
    ),
    "meadow": (
        "in a meadow",
        "in a flowery meadow",
        "on green grassy hills",
        "on a field of flowers",
    ),
    "snow": (
        "in the snow",
        "in snowy mountains",
        "on a snowfield",
        "in a winter landscape",
    ),
    "ocean": (
        "underwater",
        "under the sea",
        "in the deep ocean",
        "below the waves",
    ),
    "space": (
        "in space",
        "in outer space",
        "among the stars of space",
        "before a planet in outer space",
    ),
    "room": (
        "in a room",
        "indoors in a room",
        "in a room with a window",
        "inside a house",
    ),
    "volcano": (
        "at a volcano",
        "in front of a volcano",
        "among streams of lava",
        "on volcanic ground",
    ),
}
THEME_NOUNS = {
    "beach": ("beach", "sandy shore", "seaside"),
    "forest": ("forest", "woodland"),
    "desert": ("desert", "dune landscape"),
    "city": ("city", "street with tall buildings"),
    "meadow": ("meadow", "grassy field"),
    "snow": ("snowy mountain landscape", "winter landscape"),
    "ocean": ("underwater world", "sea bottom"),
    "space": ("starry space", "outer space scene"),
    "room": ("room", "living room"),
    "volcano": ("volcano", "land of lava"),
}
THEME_DETAILS = {
    "beach": (
        "Pale sand meets calm blue water under an open sky.",
        "The sea lies between the sky and a strip of sand.",
        "Sand fills the foreground and the sea stretches behind it.",
        "A low sun hangs above the water.",
    ),
    "forest": (
        "Dark green trees stand close together.",
        "Rows of pointed trees fill the background.",
        "Tree trunks and pointed crowns overlap each other.",
        "The forest floor is dark.",
    ),
    "desert": (
        "Soft dunes roll across the picture under a pale sky.",
        "A cactus or two grow on the dunes.",
        "Layers of sand fill the lower part of the picture.",
        "Everything behind is sand and dry sky.",
    ),
    "city": (
        "Tall buildings with lit windows stand side by side.",
        "A gray skyline rises behind a street.",
        "Rows of windows dot the walls of the buildings.",
        "A road with a dashed line runs along the bottom.",
    ),
    "meadow": (
        "Green hills lie under a blue sky with some clouds.",
        "Small flowers dot the grass.",
        "Grass covers the gentle hills.",
        "White clouds float above the hills.",
    ),
    "snow": (
        "White peaks rise behind a field of snow.",
        "Snowflakes are scattered over the whole picture.",
        "The mountains wear caps of snow.",
        "The ground is covered in snow.",
    ),
    "ocean": (
        "Rays of light fall through the water.",
        "Bubbles and weeds surround the scene.",
        "The water turns darker toward the bottom.",
        "Sea weed grows from the ground.",
    ),
    "space": (
        "Many bright stars cover a dark sky.",
        "A planet with a thin ring hangs in the distance.",
        "The background is almost black and full of stars.",
        "No ground can be seen, only the starry dark.",
    ),
    "room": (
        "A striped wall stands above a wooden floor.",
        "A window with a pale frame is set in the wall.",
        "Wooden boards cover the floor.",
        "Wallpaper with stripes covers the wall.",
    ),
    "volcano": (
        "Glowing lava runs down a dark mountain.",
        "Pools of lava shine on the ground.",
        "A dark cone with a glowing mouth rises behind.",
        "The sky is dark and reddish brown.",
    ),
}
MOODS = {
    "cheerful": ("cheerful", "bright", "sunny"),
    "gloomy": ("gloomy", "dark", "dim"),
    "warm": ("warm", "cozy", "sunset-like"),
    "cold": ("cold", "chilly", "icy"),
    "dreamy": ("dreamy", "hazy", "misty"),
    "mysterious": ("mysterious", "shadowy", "secretive"),
}
MOOD_SENTENCES = {
    "cheerful": (
        "The light is bright and cheerful.",
        "Everything looks sunny and lively.",
        "Clear, bright light gives a happy feeling.",
    ),
    "gloomy": (
        "The light is dim and gloomy.",
        "Everything looks dull and dark.",
        "Little light reaches the scene, which feels sad.",
    ),
    "warm": (
        "The light is warm and golden.",
        "Everything glows in orange tones.",
        "An amber tint makes the scene feel cozy.",
    ),
    "cold": (
        "The light is cold and bluish.",
        "Everything looks icy and blue.",
        "A blue tint makes the scene feel chilly.",
    ),
    "dreamy": (
        "A pale haze makes everything look dreamy.",
        "The picture is soft and misty.",
        "Milky mist takes the strength out of the scenery.",
    ),
    "mysterious": (
        "The corners are dark, which feels mysterious.",
        "Shadows close in from the edges.",
        "Only the middle is lit and the edges sink into shadow.",
    ),
}
MOVES = {
    ("left", "slow"): (
        ("moves slowly to the left", "moving slowly to the left"),
        ("drifts left", "drifting left"),
        ("creeps toward the left", "creeping toward the left"),
        ("slides gently leftward", "sliding gently leftward"),
    ),
    ("left", "fast"): (
        ("moves quickly to the left", "moving quickly to the left"),
        ("dashes left", "dashing left"),
        ("races toward the left", "racing toward the left"),
        ("shoots rapidly leftward", "shooting rapidly leftward"),
    ),
    ("right", "slow"): (
        ("moves slowly to the right", "moving slowly to the right"),
        ("drifts right", "drifting right"),
        ("creeps toward the right", "creeping toward the right"),
        ("slides gently rightward", "sliding gently rightward"),
    ),
    ("right", "fast"): (
        ("moves quickly to the right", "moving quickly to the right"),
        ("dashes right", "dashing right"),
        ("races toward the right", "racing toward the right"),
        ("shoots rapidly rightward", "shooting rapidly rightward"),
    ),
    ("up", "slow"): (
        ("rises slowly", "rising slowly"),
        ("floats up", "floating up"),
        ("climbs gently upward", "climbing gently upward"),
        ("moves slowly up", "moving slowly up"),
    ),
    ("up", "fast"): (
        ("rises quickly", "rising quickly"),
        ("shoots up", "shooting up"),
        ("jumps rapidly upward", "jumping rapidly upward"),
        ("moves quickly up", "moving quickly up"),
    ),
    ("down", "slow"): (
        ("sinks slowly", "sinking slowly"),
        ("floats down", "floating down"),
        ("lowers gently downward", "lowering gently downward"),
        ("moves slowly down", "moving slowly down"),
    ),
    ("down", "fast"): (
        ("falls quickly", "falling quickly"),
        ("drops down fast", "dropping down fast"),
        ("plunges rapidly downward", "plunging rapidly downward"),
        ("moves quickly down", "moving quickly down"),
    ),
    ("left", None): (
        ("moves left", "moving left"),
        ("moves to the left", "moving to the left"),
        ("slides to the left", "sliding to the left"),
        ("travels leftward", "traveling leftward"),
    ),
    ("right", None): (
        ("moves right", "moving right"),
        ("moves to the right", "moving to the right"),
        ("slides to the right", "sliding to the right"),
        ("travels rightward", "traveling rightward"),
    ),
    ("up", None): (
        ("moves up", "moving up"),
        ("rises", "rising"),
        ("goes up", "going up"),
        ("travels upward", "traveling upward"),
    ),
    ("down", None): (
        ("moves down", "moving down"),
        ("sinks", "sinking"),
        ("goes down", "going down"),
        ("travels downward", "traveling downward"),
    ),
    ("bounce", None): (
        ("bounces up and down", "bouncing up and down"),
        ("bounces", "bouncing"),
        ("hops on the spot", "hopping on the spot"),
    ),
    ("zigzag", None): (
        ("zigzags across", "zigzagging across"),
        ("moves in a zigzag", "moving in a zigzag"),
        ("weaves up and down on its way right", "weaving up and down on its way right"),
    ),
    ("orbit", None): (
        ("circles around", "circling around"),
        ("moves in circles", "moving in circles"),
        ("follows a round path", "following a round path"),
    ),
    ("sway", None): (
        ("sways from side to side", "swaying from side to side"),
        ("swings left and right", "swinging left and right"),
        ("rocks to and fro", "rocking to and fro"),
    ),
    ("spin", None): (
        ("spins", "spinning"),
        ("rotates in place", "rotating in place"),
        ("turns around itself", "turning around itself"),
    ),
    ("grow", None): (
        ("grows", "growing"),
        ("gets bigger", "getting bigger"),
        ("expands", "expanding"),
    ),
    ("shrink", None): (
        ("shrinks", "shrinking"),
        ("gets smaller", "getting smaller"),
        ("contracts", "contracting"),
    ),
    ("pulse", None): (
        ("pulses", "pulsing"),
        (
            "swells and shrinks again and again",
            "swelling and shrinking again and again",
        ),
        ("throbs like a heartbeat", "throbbing like a heartbeat"),
    ),
    ("appear", None): (
        ("appears", "appearing"),
        ("shows up", "showing up"),
        ("comes into view", "coming into view"),
    ),
    ("vanish", None): (
        ("vanishes", "vanishing"),
        ("disappears", "disappearing"),
        ("fades away", "fading away"),
    ),
    ("flash", None): (
        ("flashes", "flashing"),
        ("blinks on and off", "blinking on and off"),
        ("flickers", "flickering"),
    ),
}
# What each motion looks like, said again in other words ({it} is the thing).
MOVE_DETAILS = {
    "left": (
        "{It} ends further left than it began.",
        "Its way leads to the left side.",
    ),
    "right": (
        "{It} ends further right than it began.",
        "Its way leads to the right side.",
    ),
    "up": ("{It} ends higher than it began.", "Its way leads toward the top."),
    "down": ("{It} ends lower than it began.", "Its way leads toward the bottom."),
    "bounce": (
        "{It} leaps and lands again several times.",
        "Each hop ends where it began.",
    ),
    "zigzag": (
        "Its path bends up and down like teeth.",
        "{It} changes direction often.",
    ),
    "orbit": ("Its path closes into a loop.", "{It} returns to where it began."),
    "sway": ("{It} goes one way and then back the other way.", "The swing repeats."),
    "spin": ("Its place stays the same while it turns.", "{It} rotates like a wheel."),
    "grow": ("{It} is much bigger when this is over.", "Its size increases steadily."),
    "shrink": (
        "{It} is much smaller when this is over.",
        "Its size decreases steadily.",
    ),
    "pulse": ("Its size keeps changing like breathing.", "{It} breathes in and out."),
    "appear": ("Before that {it} could not be seen.", "The spot was empty before."),
    "vanish": ("After that {it} is gone.", "The spot is empty afterwards."),
    "flash": ("{It} goes away and comes back over and over.", "The blinking repeats."),
}
MOVE_KEYWORDS = {
    "left": ("moving left", "leftward motion"),
    "right": ("moving right", "rightward motion"),
    "up": ("moving up", "rising"),
    "down": ("moving down", "sinking"),
    "bounce": ("bouncing", "hopping"),
    "zigzag": ("zigzag", "zigzagging"),
    "orbit": ("circling", "round path"),
    "sway": ("swaying", "swinging"),
    "spin": ("spinning", "rotation"),
    "grow": ("growing", "getting bigger"),
    "shrink": ("shrinking", "getting smaller"),
    "pulse": ("pulsing", "throbbing"),
    "appear": ("appearing", "coming into view"),
    "vanish": ("vanishing", "disappearing"),
    "flash": ("flashing", "blinking"),
}
CAMERAS = {
    "static": ("stays still", "does not move", "remains fixed"),
    "pan left": ("pans left", "pans to the left", "turns toward the left"),
    "pan right": ("pans right", "pans to the right", "turns toward the right"),
    "tilt up": ("tilts up", "tilts upward", "looks further up"),
    "tilt down": ("tilts down", "tilts downward", "looks further down"),
    "zoom in": ("zooms in", "zooms in on the scene", "narrows its view"),
    "zoom out": ("zooms out", "zooms out of the scene", "widens its view"),
    "dolly in": ("dollies in", "travels forward", "moves closer to the objects"),
    "dolly out": ("dollies out", "travels backward", "moves away from the objects"),
    "roll clockwise": ("rolls clockwise", "rotates clockwise", "turns over clockwise"),
    "roll counterclockwise": (
        "rolls counterclockwise",
        "rotates counterclockwise",
        "turns over counterclockwise",
    ),
    "shake": ("shakes", "trembles", "shakes as if held by hand"),
}
CAMERA_DETAILS = {
    "static": ("The framing never changes.", "Only the objects can change."),
    "pan left": ("The scenery slides to the right as a result.",),
    "pan right": ("The scenery slides to the left as a result.",),
    "tilt up": ("The scenery slides down as a result.",),
    "tilt down": ("The scenery slides up as a result.",),
    "zoom in": ("Everything gets bigger in the frame, scenery included.",),
    "zoom out": ("Everything gets smaller in the frame, scenery included.",),
    "dolly in": ("The objects come nearer while the scenery hardly changes.",),
    "dolly out": ("The objects get further away while the scenery hardly changes.",),
    "roll clockwise": ("The horizon tips over counterclockwise.",),
    "roll counterclockwise": ("The horizon tips over clockwise.",),
    "shake": ("The picture jitters in all directions.",),
}
CAMERA_KEYWORDS = {
    "static": ("static camera", "fixed camera"),
    "pan left": ("pan left", "panning left"),
    "pan right": ("pan right", "panning right"),
    "tilt up": ("tilt up", "tilting up"),
    "tilt down": ("tilt down", "tilting down"),
    "zoom in": ("zoom in", "zooming in"),
    "zoom out": ("zoom out", "zooming out"),
    "dolly in": ("dolly in", "forward dolly"),
    "dolly out": ("dolly out", "backward dolly"),
    "roll clockwise": ("clockwise roll", "rolling clockwise"),
    "roll counterclockwise": ("counterclockwise roll", "rolling counterclockwise"),
    "shake": ("shaky camera", "camera shake"),
}
PACES = {
    "slow": ("slowly", "gently", "gradually"),
    "fast": ("quickly", "rapidly", "fast"),
}
RELATIONS = {
    "left of": ("to the left of", "left of"),
    "right of": ("to the right of", "right of"),
    "above": ("above", "higher than"),
    "below": ("below", "lower than"),
    "inside": ("inside", "within"),
    "around": ("around", "surrounding"),
    "in front of": ("in front of", "partly covering"),
    "behind": ("behind", "partly hidden by"),
}
PLACES = {
    "upper left": ("in the upper left", "in the top left corner"),
    "upper": ("at the top", "in the upper middle"),
    "upper right": ("in the upper right", "in the top right corner"),
    "left": ("on the left", "on the left side"),
    "center": ("in the center", "in the middle"),
    "right": ("on the right", "on the right side"),
    "lower left": ("in the lower left", "in the bottom left corner"),
    "lower": ("at the bottom", "in the lower middle"),
    "lower right": ("in the lower right", "in the bottom right corner"),
}
NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")
