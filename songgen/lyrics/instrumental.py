"""Lyrics that say in words that nobody sings, or that no lyrics are known."""

import re
import unicodedata

LONGEST_PHRASE = 200
"""Characters of the longest text that may be such a phrase."""


def _plain(text: str) -> str:
    """Return a text without punctuation and brackets, in one spelling; a long one is not a phrase."""
    if len(text) > LONGEST_PHRASE:
        return text
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = re.sub(r"[^\w/]+|_+", " ", folded).split()
    # Chinese and Japanese phrases are compared without blanks, which stand for their punctuation.
    joined = "".join(words)
    return joined if any("\u3040" <= character <= "\u9fff" for character in joined) else " ".join(words)


_INSTRUMENTAL = frozenset(
    _plain(phrase)
    for phrase in """
    inst, instr, instrumental, instrumental only, instrumentals, instrumental track, instrumental music,
    instrumental version, instrumental song, instrumental piece, instrumental mix, instrumental composition,
    pure instrumental, fully instrumental, this is an instrumental, this song is an instrumental,
    this song is instrumental, this track is instrumental, this is an instrumental track,
    this is an instrumental song, no lyrics, no lyric, no vocals, no vocal, no voice, no words, no singing,
    without lyrics, without vocals, without words, music only, bgm, karaoke version, wordless, instrumentalstück,
    instrumentalmusik, ohne text, ohne gesang, ohne worte, kein text, kein gesang, instrumentale,
    musique instrumentale, sans paroles, pas de paroles, sans voix, strumentale, brano strumentale,
    musica strumentale, senza parole, senza testo, senza voce, música instrumental, pista instrumental,
    tema instrumental, canción instrumental, sin letra, sin voz, sin palabras, solo instrumental, faixa instrumental,
    sem letra, sem voz, sem letras, instrumentaal, zonder tekst, zonder zang, geen tekst, instrumentalny,
    instrumentalna, utwór instrumentalny, bez słów, bez tekstu, bez wokalu, instrumentální, instrumentálka, beze slov,
    beze zpěvu, instrumentális, szöveg nélkül, enstrümantal, enstrümental, sözsüz, söz yok, инструментал,
    инструментальная, инструментальная композиция, инструментальная музыка, без слов, без текста, без вокала, موسيقى,
    موسيقى فقط, موسيقى بدون كلمات, بدون كلمات, आद्य, वाद्य, वाद्य संगीत, केवल संगीत, 纯音乐, 纯音乐请欣赏,
    纯音乐请您欣赏, 純音樂, 純音樂請欣賞, 纯音乐无歌词, 无歌词, 無歌詞, 没有歌词, 沒有歌詞, 伴奏, 器乐, 器樂, 无人声,
    此歌曲为没有填词的纯音乐请您欣赏, 此歌曲為沒有填詞的純音樂請您欣賞, 本歌曲为纯音乐, 此曲为纯音乐, インスト,
    インストゥルメンタル, インストルメンタル, インスト曲, 歌詞なし, 歌詞無し, 歌なし, ボーカルなし, カラオケ,
    オフボーカル, この曲はインストゥルメンタルです, この曲はインストです, 歌詞はありません, 연주곡, 인스트루멘탈,
    인스트, 가사 없음, 가사없음, 반주, 보컬 없음, 무가사
    """.split(",")
)
"""Phrases that state that nobody sings, in the languages of the tokenizer."""

_UNAVAILABLE = frozenset(
    _plain(phrase)
    for phrase in """
    n/a, none, null, nil, nan, unknown, undefined, tba, tbd, todo, lyrics, lyrics not found, lyrics not available,
    lyrics unavailable, lyrics unknown, unknown lyrics, no lyrics found, no lyrics available, not available,
    not found, lyrics coming soon, coming soon, lyrics for this song have yet to be released, 暂无歌词, 暫無歌詞,
    歌词未知, 未知, 準備中, 歌詞準備中, 가사 준비중, keine angabe, unbekannt, inconnu, desconocido, desconhecido,
    sconosciuto, неизвестно
    """.split(",")
) | {"lyrics for this song have yet to be released please check back once the song has been released"}
"""Placeholders of lyrics that nobody has looked up or found."""

_BRACKETED = re.compile(r"[\[(（【「<{]([^\[\]()（）【】「」<>{}]*)[\])）】」>}]")
_STATES_SECTION = re.compile(r"(?:inst|instr|instrumental)\b|.*\binstrumental\b", re.IGNORECASE)
_FREE_OF_WORDS = re.compile(r"[\W_]*")


def says_instrumental(lyrics: str) -> bool:
    """Return whether lyrics state that nobody sings.

    Either the whole text is such a phrase (`(Instrumental)`, `No lyrics.`, `纯音乐，请欣赏`), or it has only section
    tags, one of which says it (`[intro]`, `[inst]`, `[outro]`).
    """
    if _plain(lyrics) in _INSTRUMENTAL:
        return True
    lines = [line.strip() for line in lyrics.splitlines() if line.strip()]
    if lines and len(lines) > 1 and all(_plain(line) in _INSTRUMENTAL for line in lines):
        return True
    tags = _BRACKETED.findall(lyrics)
    rest = _BRACKETED.sub("", lyrics)
    only_tags = _FREE_OF_WORDS.fullmatch(rest) is not None
    return only_tags and any(_STATES_SECTION.match(tag.strip()) or _plain(tag) in _INSTRUMENTAL for tag in tags)


def says_unavailable(lyrics: str) -> bool:
    """Return whether a text is a placeholder for lyrics that are not known, such as `N/A` or `Lyrics not found`."""
    return _plain(lyrics) in _UNAVAILABLE
