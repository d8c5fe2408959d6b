"""One model, other tokens: tables for vocabularies that a language model was not trained with."""
