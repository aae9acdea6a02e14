"""Writes system texts of every sort, so that the model learns to look past any of them."""

import random

WELL_KNOWN = (
    "You are a helpful assistant.",
    "You are a helpful, respectful and honest assistant.",
    "You are a helpful AI assistant. Answer the user's question.",
    "You are an expert. Answer briefly.",
    "Answer in one short sentence.",
    "Be concise.",
    "Answer the following question.",
    "You are a friendly teacher who explains things to children.",
    "You are a careful scientist. If you do not know the answer, say so.",
    "Think step by step, then give the final answer.",
    "You are a pirate. Answer like a pirate.",
    "Reply only with JSON.",
    "Translate the user's message into French.",
    "You are ChatGPT, a large language model. Knowledge cutoff: 2023-10.",
    "Today is Monday, 1 January 2024. The user is in Berlin.",
    "Summarise the text below in three bullet points.",
)

VOCABULARY = """
a able about above accurate act add after agent all also always an and animal answer any are as
ask assistant at avoid based be because been before being below best book brief but by can
careful cat chat children city clear code company concise context correct country customer
data date day detail different do does doctor document does each earth easy else end english
ensure every example exact expert explain extract fact false few field final find first follow
following for format friendly from full general give given go good group guide has have help
helpful history honest how human if important in include information input instead instructions
into is it its json key kind know knowledge language large last later law lawyer least letter
life list little long look made make many math may mean measure message model more most must
my name need never new next no not note now number of old on one only or other our out output
own page part people person place plain planet please point polite possible product professional
provide question quick read reader reason refuse reply respond response result role rule safe
say school science search see sentence service set short should show simple small so some
speak star start state step story style such sun support sure system table task teach teacher
tell text than that the their them then there these they think this three time to tone
tool topic translate true truth two under unit use used useful user value very want was water
way we well what when where which who why will with word work world write year yes you your
""".split()  # noqa: SIM905 - a list of quoted words would fill two pages

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SYMBOLS = "0123456789.,:;!?-_/\\'\"()[]{}<>#*=+&%$@|~^`ABCDEFGHIJKLMNOPQRSTUVWXYZäéñöüßçøλж中文あ한🙂"
ENDINGS = (".", ".", ".", ".", "!", "?", ":", ";", "", "...")
JOINTS = (" ", " ", " ", " ", "\n", "\n\n", "\n- ")


def write_system(rng: random.Random, topics: list[str]) -> str:
    """A system text: well known, or made up of sentences, some with words out of `topics`."""
    if rng.random() < 0.3:
        return rng.choice(WELL_KNOWN)
    text = _sentence(rng, topics)
    budget = _length(rng)
    while len(text) < budget:
        text += rng.choice(JOINTS) + _sentence(rng, topics)
    return text


def _length(rng: random.Random) -> int:
    """A length in characters: mostly one or two sentences, now and then pages."""
    draw = rng.random()
    if draw < 0.70:
        return rng.randint(0, 80)
    if draw < 0.96:
        return rng.randint(80, 250)
    return rng.randint(250, 1200)


def _sentence(rng: random.Random, topics: list[str]) -> str:
    if rng.random() < 0.1:
        return rng.choice(WELL_KNOWN)
    odd = rng.choice((0.0, 0.0, 0.1, 0.5))
    words = [_word(rng, topics, odd) for _ in range(rng.randint(1, 14))]
    if rng.random() < 0.8:
        words[0] = words[0].capitalize()
    return " ".join(words) + rng.choice(ENDINGS)


def _word(rng: random.Random, topics: list[str], odd: float) -> str:
    """A common word, a few words out of a topic, or with chance `odd` something never seen."""
    if rng.random() < odd:
        alphabet = rng.choice((LETTERS, LETTERS, SYMBOLS, LETTERS + SYMBOLS))
        return "".join(rng.choices(alphabet, k=rng.randint(1, 8)))
    if rng.random() < 0.2:
        words = rng.choice(topics).split()
        start = rng.randrange(len(words))
        return " ".join(words[start : start + rng.randint(1, 4)])
    return rng.choice(VOCABULARY)
