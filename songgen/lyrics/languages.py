"""Tables for each language: names, abbreviations, spoken symbols, ordinal endings, letters.

The words follow the XTTS family of tokenizers, from which the published lyrics tokenizer is derived
(https://github.com/idiap/coqui-ai-TTS, TTS/tts/layers/xtts/tokenizer.py).
"""

import re
import unicodedata
from collections.abc import Iterator
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

_OTHER_NAMES = {
    "en": "eng anglais inglés ingles englisch inglese inglês 英语 英語 영어 английский",
    "es": "spa castilian castellano español espanol espagnol spanisch 西班牙语 スペイン語 스페인어 испанский",
    "fr": "fra fre français francais französisch franzoesisch francés 法语 法語 フランス語 프랑스어 французский",
    "de": "deu ger deutsch allemand alemán 德语 德語 ドイツ語 독일어 немецкий",
    "pt": "por português portugues portugiesisch brazilian 葡萄牙语 ポルトガル語 포르투갈어 португальский",
    "it": "ita italiano italienisch italien 意大利语 イタリア語 이탈리아어 итальянский",
    "pl": "pol polski polska polnisch 波兰语 ポーランド語 폴란드어 польский",
    "tr": "tur türkçe turkce türkisch 土耳其语 トルコ語 튀르키예어 турецкий",
    "ru": "rus русский russkiy russisch 俄语 俄語 ロシア語 러시아어",
    "nl": "nld dut nederlands flemish vlaams niederländisch 荷兰语 オランダ語 네덜란드어 голландский",
    "cs": "ces cze cz čeština cestina česky tschechisch 捷克语 чешский",
    "ar": "ara arb العربية عربي arabisch 阿拉伯语 アラビア語 아랍어 арабский",
    "zh": "zho chi cmn cn zho-hans mandarin putonghua guoyu 中文 汉语 漢語 普通话 普通話 国语 國語 华语 華語 简体中文 "
    "繁體中文 chinesisch chinois 中国語 중국어 китайский",
    "ja": "jpn jp 日本語 日语 日語 japanisch japonais nihongo 일본어 японский",
    "hu": "hun magyar ungarisch 匈牙利语 венгерский",
    "ko": "kor kr 한국어 조선말 韩语 韓語 韩文 韓國語 韓国語 koreanisch coréen hangul корейский",
    "hi": "hin हिन्दी हिंदी 印地语 ヒンディー語 힌디어 хинди",
}
"""Further names: ISO 639-2, ISO 639-3, country codes that are used for languages, and common names."""

_CODES = {name: code for code, name in _NAMES.items()} | {
    name: code for code, names in _OTHER_NAMES.items() for name in names.split()
}

_CHINESE_BUT_NOT_MANDARIN = ("yue", "nan", "wuu", "hak", "cantonese", "hokkien", "hakka", "min", "hk")
"""Languages that share the Chinese script: `zh` is romanized as Mandarin, so their words would be wrong."""

_NOT_STATED = frozenset(
    "unknown und undefined undetermined unspecified none null nil nan n/a na - -- ? auto detect any other others misc "
    "mul multi multilingual mixed various xx zxx instrumental inst novocals 未知 不明 其他 无 無 なし 없음 "
    "unbekannt".split()
)
"""Values of a column of languages that state no language: lyrics may be in any language, or there are none."""

_LIST = re.compile(r"\s*(?:[,;/|+&、，]|\band\b)\s*")


def states_language(language: str) -> bool:
    """Return whether a text names a language, known or not; `unknown`, `und`, `zxx` and an empty text do not."""
    plain = re.sub(r"[\s_]+", "", language).casefold()
    return plain not in _NOT_STATED and bool(plain)


def language_code(language: str) -> str:
    """Return the two-letter code of a language of the lyrics.

    Args:
        language: a code of two or three letters (`en`, `eng`), with or without region (`zh-CN`, `pt_BR`), or a usual
            name (`english`, `Mandarin`, `English (US)`, `日本語`). Of several (`en/ja`) the first counts.

    Raises:
        ValueError: if it is not one of the 17 languages; the message lists them.
    """
    for wanted in _spellings(language):
        code = _CODES.get(wanted, wanted)
        if code in _NAMES:
            return code
    known = ", ".join(f"{known_code} ({name})" for known_code, name in _NAMES.items())
    raise ValueError(f"unknown language of lyrics {language!r}; known languages: {known}")


def is_known_language(language: str) -> bool:
    """Return whether `language_code` knows a language."""
    try:
        language_code(language)
    except ValueError:
        return False
    return True


def _spellings(language: str) -> Iterator[str]:
    """Yield what a text may name, the whole of it first: without region, script and remarks in parentheses."""
    whole = " ".join(unicodedata.normalize("NFKC", language).casefold().split())
    yield whole
    first = _LIST.split(re.sub(r"\s*\(.*?\)", "", whole))[0]
    parts = re.split(r"[-_\s.:]+", first)
    # `zh-yue` and `Chinese (Cantonese)` are not Mandarin.
    if not any(part in _CHINESE_BUT_NOT_MANDARIN for part in re.split(r"[^\w]+|_", whole)):
        yield first
        yield parts[0]
        # `Mandarin Chinese`, `Brazilian Portuguese`; but the end of a code (`ca-ES`) is a country.
        if len(parts[-1]) > 3 and not re.search(r"[-_]", first):
            yield parts[-1]


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
