"""Ways of putting Penstock into programs that were written for torch's DataLoader."""
