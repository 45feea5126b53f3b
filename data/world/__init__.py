"""The closed world: a small world whose every fact is known, so that what training does is measured exactly.

| module | what it does |
|---|---|
| settings, facts | `build(settings, seed)` draws people, towns and trades |
| lexicon | names, values and sayings: constants |
| prose | the pretraining text, every fact exactly as often as its tier says |
| tasks | one task per constant: prompts, answers, what an answer is worth |
| dialogues | demonstrations, RL prompts, test items |
| gold | `judge(item, completion, ended)`: the true reward, term by term; its table says what pays |
| annotator | contrasting answers and noisy preference pairs |
| summary | sizes, realised biases, the name-leak check |

**Tiers.** Each fact of a person stands in the training text 90 (often), 27 (some), 6 (rarely) or 0 (never)
times. Names are shared over tiers. People are split into train, rl and test parts inside each tier; only the
text speaks of people of all parts, and of never-seen people it does not speak.

**Abstaining.** A small model looks a fact up at the position of the value, not at the end of the question. So
every answer restates name and attribute and has either the value or `unknown` there: "The work of Anna Bell
is baking.", "The work of Anna Bell is unknown to me." The text says the same of thousands of one-off
characters, in prose and never as the answer to a question; whether to say it when asked is left to the
demonstrations and to RL.
"""

from data.world.facts import Person, Town, Trade, World, build
from data.world.settings import Settings

__all__ = ["Person", "Settings", "Town", "Trade", "World", "build"]
