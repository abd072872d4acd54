"""The language of lyrics is told from the text, or not at all."""

import pytest

from songgen.lyrics.text_language import language_of_text

LYRICS = {
    "en": "I was waiting for you in the rain\nand all my love is not the same",
    "fr": "Je suis dans la rue et je pense à toi\nles nuits sont longues et tu n'es pas là",
    "es": "Yo no sé qué hacer con el amor que me das\ny la noche se va por el mar",
    "de": "Ich bin nicht mehr da und du weißt es auch\nder Wind ist kalt und die Nacht so lang",
    "it": "Io non so che cosa è la vita senza te\nma sei con me e il cuore non è più solo",
    "pt": "Eu não sei o que você quer de mim\nmas meu coração é seu e está com você",
    "nl": "Ik ben niet meer van jou en je weet het wel\nde nacht is lang maar ik heb geen slaap",
    "pl": "Nie ma mnie tu i nie wiem co to jest\nale ty już nie jesteś tak jak ja",
    "cs": "Já jsem tu a ty jsi tam ale nic mi to není\nkdyž se na mě tak smutně ptáš co bude už",
    "tr": "Ben seni çok sevdim ama sen beni değil\nbu gece bir yıldız gibi kadar uzak ki ne var",
    "hu": "Nem vagyok már a tiéd és te is ezt akarod\nhogy minden csak egy szó de nekem mint a tűz",
    "ru": "Я вижу тебя в каждом сне\nи небо плачет обо мне",
    "ja": "夜の空に星がひかる",
    "zh": "月亮代表我的心",
    "ko": "너를 사랑해 언제나",
    "ar": "أنا أحبك يا حبيبي",
    "hi": "तेरे बिना दिल नहीं लगता",
}


@pytest.mark.parametrize("language", LYRICS)
def test_the_language_of_lyrics_is_told_from_the_text(language: str) -> None:
    assert language_of_text(f"[verse]\n{LYRICS[language]}") == language


@pytest.mark.parametrize(
    "text", ["", "[chorus]", "La la la la la", "Ooh yeah yeah", "Привіт, моя мріє", "12 34", "Amor"]
)
def test_a_text_that_does_not_tell_has_no_language(text: str) -> None:
    assert language_of_text(text) == ""
