"""The language of lyrics, by their script and by their most frequent small words.

Only for lyrics that state no language. A library was not used: those that are kept up are much larger than the package
(lingua: 90 MB of n-grams), and a song has enough small words.
"""

import re
import unicodedata
from collections import Counter
from functools import lru_cache

MIN_WORDS, MIN_SHARE, MIN_LEAD = 4, 0.12, 1.5
"""Fewest small words of a language, their least share of all words, and how much more there must be than of any other
language."""

_SCRIPTS = {"HANGUL": "ko", "HIRAGANA": "ja", "KATAKANA": "ja", "DEVANAGARI": "hi", "ARABIC": "ar", "CYRILLIC": "ru"}
"""First word of a character's name -> language; Persian, Urdu and Ukrainian are not among those that are told apart."""

_SMALL_WORDS = {
    "en": "the and you i to a me my in it of your that on is we be for all so this with when but no what just love are "
    "do don't i'm it's can was like know up at will they not have",
    "fr": "le la les je tu il elle nous vous on et de des du un une dans que qui pas ne mon ma mes ton ta est c'est "
    "j'ai pour sur avec plus tout comme au ce sans moi toi où quand mais",
    "es": "el la los las yo tú que de y en un una mi tu no me te se lo con por para es como más ya si pero cuando amor "
    "al del sin está soy eres todo",
    "de": "der die das und ich du er sie wir ihr es ist nicht ein eine mein dein in zu mit auf den dem von für so wie "
    "was wenn noch nur auch mich dich mir dir bin bist hat kein",
    "it": "il lo la i gli le che di e è un una io tu mi ti si non con per del della nel sono come ma più se qui cosa "
    "sei ho quando senza mio tuo",
    "pt": "o os as eu tu você que de e em um uma meu minha seu não me te se com por para é como mais já mas quando do "
    "da no na sem sou está tudo pra",
    "nl": "de het een en ik je jij hij zij we dat niet van in is mijn jouw op te voor met als maar zo wat er aan naar "
    "ben bent heb nog ook geen",
    "pl": "i w na nie się to że jest ja ty mnie mi cię z do jak co tak już gdy ale mój moja bo tylko po za od nas dla",
    "cs": "a v na ne se to že je já ty mě mi tě s do jak co tak už když ale můj má jen po za od nás pro jsem jsi být",
    "tr": "ve bir bu ben sen o ne da de mi için gibi çok var yok beni seni bana sana her ama daha kadar değil ki benim",
    "hu": "a az és egy hogy nem is én te ő mi már csak ha de van volt mint meg ez azt kell nekem veled minden még",
}

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_TAG = re.compile(r"\[[^\[\]]*\]")


@lru_cache(maxsize=1 << 12)
def language_of_text(text: str) -> str:
    """Return the code of the language of lyrics; empty if it cannot be told.

    Args:
        text: lyrics; section tags in square brackets do not count.
    """
    plain = _TAG.sub(" ", unicodedata.normalize("NFC", text)).casefold().replace("’", "'")
    letters = [character for character in plain if character.isalpha()]
    if not letters:
        return ""
    by_script = _language_of_script(letters)
    if by_script is not None:
        return by_script
    words = _WORD.findall(plain)
    found = Counter({code: sum(word in small for word in words) for code, small in _SMALL.items()})
    (best, count), (_, second) = found.most_common(2)
    is_clear = count >= max(MIN_WORDS, MIN_SHARE * len(words)) and count >= MIN_LEAD * second
    return best if is_clear else ""


_SMALL = {code: frozenset(words.split()) for code, words in _SMALL_WORDS.items()}


def _language_of_script(letters: list[str]) -> str | None:
    """Return the language of a script other than Latin; None for Latin, empty if scripts are mixed or unknown."""
    scripts = Counter(unicodedata.name(letter, "").partition(" ")[0] for letter in letters)
    if scripts["LATIN"] > 0.5 * len(letters):
        return None
    # Japanese is written with Chinese characters as well, Chinese never with kana.
    if scripts["HIRAGANA"] + scripts["KATAKANA"] > 0.05 * len(letters):
        return "ja"
    if scripts["CJK"] > 0.5 * len(letters):
        return "zh"
    code = _SCRIPTS.get(scripts.most_common(1)[0][0], "")
    return "" if code == "ru" and {"і", "ї", "є", "ў"} & set(letters) else code
