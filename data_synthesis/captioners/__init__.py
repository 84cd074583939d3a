"""Captioners: whatever writes texts about videos and stills, behind one interface."""
