"""One file per reproduction, in a folder per family; `python -m experiments list` names them."""
