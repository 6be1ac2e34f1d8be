"""Programs that torchrun starts twice; each holds Penstock's loader beside torch's and exits with 0 if all is well."""
