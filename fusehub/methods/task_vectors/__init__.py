"""Methods on task vectors: what each expert changed of the base, thinned out, added up and put on it again."""
