"""The closed world: a small world whose every fact is known, with its texts, dialogues and gold reward."""
