"""What each verb of ``jepa-arm`` does. Heavy imports wait until the verb runs."""
