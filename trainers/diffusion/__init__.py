"""The mathematics: noise schedule, losses, samplers, frame blocks, expert ranges, rollouts.

May import: errors only.
Must not know: networks (they are functions here), ranks or files.
"""
