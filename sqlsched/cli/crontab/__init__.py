"""Crontabs, there and back: `reading` makes schedules of one, `writing` one of schedules.

What a line means is what Debian's cron makes of it, `words` has the details.
"""
