"""What a damaged archive still holds: recover without parity, repair with it."""
