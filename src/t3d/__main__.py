"""`python -m t3d`: the command where its script is not on the path."""

from t3d.cli.main import main

if __name__ == "__main__":
    main()
