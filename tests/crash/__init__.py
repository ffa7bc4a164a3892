"""Commands in the middle of which something happens: kills, signals, full disks, a second command."""
