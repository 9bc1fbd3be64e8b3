"""Where schedules come from. To add a source, subclass `sqlsched.abc.ScheduleSource`."""
