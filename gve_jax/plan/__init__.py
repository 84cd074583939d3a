"""Plan before you pay: the real step, compiled for chips that are not here."""
