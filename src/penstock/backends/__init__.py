"""What runs tasks: one module or package for each backend, all under the contract of `base`."""
