"""Problems, answer extraction and checking, votes over canonical answers."""
