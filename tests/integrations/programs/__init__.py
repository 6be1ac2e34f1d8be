"""What torchrun starts twice: Penstock's loader held beside torch's; an error where they differ."""
