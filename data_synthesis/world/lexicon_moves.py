"""The words for what moves: things and cameras.

Motions are pairs (third person, gerund); the first entry is the commonest.
"""

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
