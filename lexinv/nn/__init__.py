"""What several families use: lexica, the Transformer over them, attention, initial circuits."""
