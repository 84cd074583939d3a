"""The words for what is seen. In each list the first entry is the commonest."""

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
        "The surface of {it} is plain, without any pattern.",
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
