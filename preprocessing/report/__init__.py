"""What a dataset holds and why the rest was left out, from the ledger alone: nothing is decoded."""
