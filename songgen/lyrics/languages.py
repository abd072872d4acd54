"""Tables for each language: names, abbreviations, spoken symbols, ordinal endings, letters.

The words follow the XTTS family of tokenizers, from which the published lyrics tokenizer is derived
(https://github.com/idiap/coqui-ai-TTS, TTS/tts/layers/xtts/tokenizer.py).
"""

from types import MappingProxyType

_NAMES = {
    "en": "english",
    "es": "spanish",
    "fr": "french",
    "de": "german",
    "pt": "portuguese",
    "it": "italian",
    "pl": "polish",
    "tr": "turkish",
    "ru": "russian",
    "nl": "dutch",
    "cs": "czech",
    "ar": "arabic",
    "zh": "chinese",
    "ja": "japanese",
    "hu": "hungarian",
    "ko": "korean",
    "hi": "hindi",
}

LANGUAGES = tuple(_NAMES)
"""The 17 languages of the published tokenizer."""

_CODES = {name: code for code, name in _NAMES.items()}


def language_code(language: str) -> str:
    """Return the two-letter code of a language given by code, by code with region, or by English name.

    Raises:
        ValueError: if it is not one of the 17 languages; the message lists them.
    """
    wanted = language.strip().lower()
    code = _CODES.get(wanted, wanted.replace("_", "-").split("-")[0])
    if code not in _NAMES:
        known = ", ".join(f"{known_code} ({name})" for known_code, name in _NAMES.items())
        raise ValueError(f"unknown language of lyrics {language!r}; known languages: {known}")
    return code


ABBREVIATIONS: MappingProxyType[str, dict[str, str]] = MappingProxyType(
    {
        "en": {
            "mrs": "misess",
            "mr": "mister",
            "dr": "doctor",
            "st": "saint",
            "co": "company",
            "jr": "junior",
            "maj": "major",
            "gen": "general",
            "drs": "doctors",
            "rev": "reverend",
            "lt": "lieutenant",
            "hon": "honorable",
            "sgt": "sergeant",
            "capt": "captain",
            "esq": "esquire",
            "ltd": "limited",
            "col": "colonel",
            "ft": "fort",
        },
        "es": {
            "sra": "señora",
            "sr": "señor",
            "dr": "doctor",
            "dra": "doctora",
            "st": "santo",
            "co": "compañía",
            "jr": "junior",
            "ltd": "limitada",
        },
        "fr": {
            "mme": "madame",
            "mr": "monsieur",
            "dr": "docteur",
            "st": "saint",
            "co": "compagnie",
            "jr": "junior",
            "ltd": "limitée",
        },
        "de": {"fr": "frau", "dr": "doktor", "st": "sankt", "co": "firma", "jr": "junior"},
        "pt": {
            "sra": "senhora",
            "sr": "senhor",
            "dr": "doutor",
            "dra": "doutora",
            "st": "santo",
            "co": "companhia",
            "jr": "júnior",
            "ltd": "limitada",
        },
        "it": {
            "sig": "signore",
            "dr": "dottore",
            "st": "santo",
            "co": "compagnia",
            "jr": "junior",
            "ltd": "limitata",
        },
        "pl": {"p": "pani", "m": "pan", "dr": "doktor", "sw": "święty", "jr": "junior"},
        "cs": {"dr": "doktor", "ing": "inženýr", "p": "pan"},
        "nl": {"dhr": "de heer", "mevr": "mevrouw", "dr": "dokter", "jhr": "jonkheer"},
        "tr": {"b": "bay", "byk": "büyük", "dr": "doktor"},
        "hu": {"dr": "doktor", "b": "bácsi", "nőv": "nővér"},
    }
)
"""Abbreviations with a dot, which is replaced with them, in the order in which they are matched."""

DOTLESS_ABBREVIATIONS: MappingProxyType[str, dict[str, str]] = MappingProxyType(
    {"ru": {"г-жа": "госпожа", "г-н": "господин", "д-р": "доктор"}}
)
"""Abbreviations written without a dot."""

SYMBOLS: MappingProxyType[str, dict[str, str]] = MappingProxyType(
    {
        language: dict(zip("&@%#$£°", spoken.split("|"), strict=True))
        for language, spoken in {
            "en": "and|at|percent|hash|dollar|pound|degree",
            "es": "y|arroba|por ciento|numeral|dolar|libra|grados",
            "fr": "et|arobase|pour cent|dièse|dollar|livre|degrés",
            "de": "und|at|prozent|raute|dollar|pfund|grad",
            "pt": "e|arroba|por cento|cardinal|dólar|libra|graus",
            "it": "e|chiocciola|per cento|cancelletto|dollaro|sterlina|gradi",
            "pl": "i|małpa|procent|krzyżyk|dolar|funt|stopnie",
            "ar": "و|على|في المئة|رقم|دولار|جنيه|درجة",
            "zh": "和|在|百分之|号|美元|英镑|度",
            "cs": "a|na|procento|křížek|dolar|libra|stupně",
            "ru": "и|собака|процентов|номер|доллар|фунт|градус",
            "nl": "en|bij|procent|hekje|dollar|pond|graden",
            "tr": "ve|at|yüzde|diyez|dolar|sterlin|derece",
            "hu": "és|kukac|százalék|kettőskereszt|dollár|font|fok",
            "ko": "그리고|에|퍼센트|번호|달러|파운드|도",
        }.items()
    }
)
"""Words for `& @ % # $ £ °`."""

ORDINAL_ENDINGS: MappingProxyType[str, str] = MappingProxyType(
    {
        "en": r"(?:st|nd|rd|th)",
        "es": r"(?:º|ª|(?:er|os|as|o|a)\b)",
        "fr": r"(?:º|ª|(?:er|re|ème|e)\b)",
        "de": r"(?:st|nd|rd|th|º|ª|\.(?=\s|$))",
        "pt": r"(?:º|ª|(?:os|as|o|a)\b)",
        "it": r"(?:º|°|ª|[oaie]\b)",
        "pl": r"(?:º|ª|st|nd|rd|th)",
        "ar": r"(?:ون|ين|ث|ر|ى)",
        "cs": r"\.(?=\s|$)",
        "ru": r"-(?:й|я|е|ое|ье|го)",
        "nl": r"(?:de|ste|e)\b",
        "tr": r"(?:\.(?![0-9])|inci|nci|uncu|üncü)",
        "hu": r"(?:\.|adik|edik|odik|ödike|ödik|ik)",
        "ko": r"(?:번째|번|차|째)",
    }
)
"""Regular expressions of endings that make the number before them an ordinal; `\\b` excludes words like "20euros"."""

_PLAIN_LETTERS = "abcdefghijklmnopqrstuvwxyz"

LETTERS: MappingProxyType[str, str] = MappingProxyType(
    {
        "en": "",
        "es": "áéíñóúü¿¡",
        "fr": "àâæçèéêëîïôœùûüÿ",
        "de": "äöüß",
        "pt": "àáâãçéêíóôõú",
        "it": "àèéìòù",
        "pl": "ąćęłńóśźż",
        "tr": "çğıöşü",
        "ru": "абвгдеёжзийклмнопрстуфхцчшщъыьэюя",
        "nl": "áéëïóöü",
        "cs": "áčďéěíňóřšťúůýž",
        "ar": "ءآأؤإئابةتثجحخدذرزسشصضطظعغفقكلمنهوىي،؟",
        "zh": "",
        "ja": "",
        "hu": "áéíóöőúüű",
        "ko": "",
        "hi": "अआइईउऊऋएऐओऔकखगघङचछजझञटठडढणतथदधनपफबभमयरलवशषसहािीुूृेैोौंँः़्।",
    }
)
"""Letters other than a-z in normalized text of a language (zh, ja and ko are romanized)."""

COMMON_CHARACTERS = _PLAIN_LETTERS + "0123456789" + ".,!?'’\"…-–—:;()[]/~*"
"""Characters that normalized text of any language may contain."""
