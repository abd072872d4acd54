"""Chinese: numbers as characters, punctuation as commas, characters as pinyin with tone numbers.

The rules are those of the text normalization that XTTS uses (https://github.com/Joee1995/chn_text_norm): years, and
long numbers without a measure word, are read digit by digit, everything else by value; 2 before a large unit is 两.
"""

import re
import string
import unicodedata

_DIGITS = "零一二三四五六七八九"
_UNITS = (("京", 16), ("兆", 12), ("亿", 8), ("万", 4), ("千", 3), ("百", 2), ("十", 1))
_MAX_DIGITS = 32
"""Longest number read by value; there are no units for longer ones, which are read digit by digit."""

_MEASURE_WORDS = (
    "匹张座回场尾条个首阵网炮顶丘棵只支辆挑担颗壳墙群腔客贯扎捆刀令打手山岭江溪钟队单双对出口头脚板跳枝件贴针线管名位身堂课本页"
    "家户层丝毫厘分钱两斤铢石钧忽克寸尺丈里寻常铺程米撮勺合升斗盘碗碟叠桶笼盆盒杯斛锅篮罐瓶壶盏箱袋钵年月日号季刻时周天秒旬纪岁"
    "世更夜春夏秋冬代辈丸泡粒幢堆根道面片块元角毛十百千万亿"
)

_NUMBER = r"(?<!\d)\d+(?:\.\d+)?"
"""A number. The lookbehind lets a match begin at the first digit only, so that long digit runs take linear time."""

_YEAR = re.compile(r"(?<!\d)(?:[089]\d|(?:19|20)\d{2})(?=年)")
_FRACTION = re.compile(r"(?<!\d)(\d+)/(\d+)")
_PERCENTAGE = re.compile(rf"({_NUMBER})[%％]")
_MEASURED = re.compile(rf"{_NUMBER}(?=[多余几]?[{_MEASURE_WORDS}])")
_LONG = re.compile(r"\d{4,}")
_CARDINAL = re.compile(rf"(?<![a-z])2(?![a-z])|(?!(?<=[a-z])2(?=[a-z])){_NUMBER}")
"""Every number except the 2 in words such as "b2b"."""

_LIANG = re.compile("(?:^|(?<=[百千万亿兆京]))二(?=[百千万亿兆京])")


def speak_chinese_numbers(text: str) -> str:
    """Return the text with its numbers in Chinese characters."""
    # From the most specific pattern to the least: what is left for _CARDINAL has no year, fraction, percent sign or
    # measure word. "3/4" is read from the denominator: 四分之三.
    text = _YEAR.sub(lambda match: _digit_by_digit(match[0]), text)
    text = _FRACTION.sub(lambda match: f"{_by_value(match[2])}分之{_by_value(match[1])}", text)
    text = _PERCENTAGE.sub(lambda match: f"百分之{_by_value(match[1])}", text)
    text = _MEASURED.sub(lambda match: _by_value(match[0]), text)
    text = _LONG.sub(lambda match: _digit_by_digit(match[0]), text)
    return _CARDINAL.sub(lambda match: _by_value(match[0]), text)


def commas_for_punctuation(text: str) -> str:
    """Return the text with every punctuation mark, Chinese or ASCII, replaced by a comma."""
    return "".join("," if _is_punctuation(character) else character for character in text)


def pinyin(text: str) -> str:
    """Return the text with Chinese characters as pinyin syllables with tone numbers (5 is neutral), without spaces.

    Raises:
        ValueError: if pypinyin is not installed.
    """
    try:
        from pypinyin import Style
        from pypinyin import pinyin as to_pinyin
    except ImportError as error:
        raise ValueError("Chinese lyrics need the package pypinyin: pip install pypinyin") from error
    syllables = to_pinyin(text, style=Style.TONE3, heteronym=False, neutral_tone_with_five=True)
    return "".join(alternatives[0] for alternatives in syllables)


def _is_punctuation(character: str) -> bool:
    category = unicodedata.category(character)
    is_full_width = unicodedata.east_asian_width(character) == "F"
    return character in string.punctuation or category[0] == "P" or (category[0] == "S" and is_full_width)


def _digit_by_digit(digits: str) -> str:
    return "".join(_DIGITS[int(digit)] for digit in digits)


def _by_value(number: str) -> str:
    """Read a number such as 12.5 by its value."""
    whole, _, decimals = number.partition(".")
    if len(whole) > _MAX_DIGITS:
        return _digit_by_digit(number.replace(".", ""))
    spoken = _LIANG.sub("两", _positional(whole)) or _DIGITS[0]
    if spoken.startswith("一十"):
        spoken = spoken[1:]
    return f"{spoken}点{_digit_by_digit(decimals)}" if decimals else spoken


def _positional(digits: str) -> str:
    """Spell digits with their units; zeros inside a number become one 零, zeros at its end are silent."""
    significant = digits.lstrip("0")
    if not significant:
        return ""
    if len(significant) == 1:
        return (_DIGITS[0] if len(digits) > 1 else "") + _DIGITS[int(significant)]
    # Split at the largest unit that fits, and spell both sides: 120034 is (12)万(0034), 十二万零三十四.
    unit, power = next((unit, power) for unit, power in _UNITS if power < len(significant))
    return _positional(digits[:-power]) + unit + _positional(significant[-power:])
