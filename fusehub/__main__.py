"""`python -m fusehub`, which also works under `accelerate launch -m` and `torchrun -m`."""

from fusehub.cli.start import main

if __name__ == "__main__":
    main()
