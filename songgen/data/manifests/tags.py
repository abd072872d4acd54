"""Kinds of tags that a caption should have: style, voice, instruments, mood, and if known tempo and key.

The kinds are those of the ACE-Step training guide. `TAG_WORDS` is the set of tags that `songgen prepare` writes and
accepts; captions written by people are searched for these words and for other common forms of them.
"""

import re

_WORDS = {
    "style": "a cappella, acid house, acid jazz, acoustic, acoustic pop, afrobeat, alternative rock, ambient, "
    "americana, art rock, ballad, baroque, bebop, big band, bluegrass, blues, blues rock, bolero, bossa nova, "
    "breakbeat, britpop, celtic, chamber music, chanson, children's music, chillout, chillwave, choral, cinematic, "
    "city pop, classical, country, country rock, cumbia, dance, dance-pop, dancehall, dark ambient, death metal, deep "
    "house, disco, dixieland, downtempo, dream pop, drill, drone, drum and bass, dub, dubstep, edm, electro, electro "
    "swing, electronic, electropop, emo, enka, eurodance, experimental, fado, film score, flamenco, folk, folk rock, "
    "funk, funk rock, fusion, garage rock, glam rock, gospel, gothic rock, grunge, hard rock, hardcore, hardstyle, "
    "heavy metal, hip-hop, house, hyperpop, idm, indie, indie folk, indie pop, indie rock, industrial, j-pop, jazz, "
    "jungle, k-pop, klezmer, latin, latin pop, lo-fi, lounge, lullaby, mandopop, march, mariachi, melodic techno, "
    "merengue, metal, minimal, musical theatre, neo-soul, new age, new wave, noise, nu metal, opera, orchestral, "
    "phonk, polka, pop, pop punk, pop rock, post-punk, post-rock, power ballad, power metal, progressive house, "
    "progressive rock, psychedelic rock, psytrance, punk, r&b, ragtime, rap, reggae, reggaeton, rock, rock and roll, "
    "rockabilly, salsa, samba, shoegaze, singer-songwriter, ska, smooth jazz, soft rock, soul, soundtrack, southern "
    "rock, surf rock, swing, synth-pop, synthwave, tango, tech house, techno, thrash metal, traditional, trance, "
    "trap, trip-hop, tropical house, uk garage, vaporwave, video game music, waltz, world music",
    "voice": "alto, autotuned vocal, backing vocals, baritone, beatboxing, boy band, breathy vocal, child vocal, "
    "choir, crooning, duet, falsetto, female vocal, growling, humming, instrumental, male vocal, rap vocal, raspy "
    "vocal, scat singing, screaming, soprano, spoken word, tenor, vocal, vocal harmony, vocoder, whispering, yodeling",
    "instruments": "808, accordion, acoustic guitar, bagpipes, banjo, bass, bass guitar, bassoon, bells, bongos, "
    "brass, bouzouki, celesta, cello, charango, claps, clarinet, clavinet, congas, cymbals, didgeridoo, dizi, djembe, "
    "double bass, drums, drum machine, drum kit, electric guitar, electric piano, english horn, erhu, euphonium, "
    "flute, french horn, glockenspiel, gong, guitar, guzheng, handpan, harmonica, harp, harpsichord, hi-hat, "
    "hurdy-gurdy, kalimba, keyboard, koto, lap steel guitar, lute, lyre, mandolin, marimba, mellotron, music box, "
    "oboe, ocarina, orchestra, organ, oud, pan flute, pedal steel guitar, percussion, piano, piccolo, pipa, recorder, "
    "sampler, saxophone, shakuhachi, shaker, shamisen, sitar, slide guitar, snare drum, steel drum, strings, sub "
    "bass, suona, synth bass, synth lead, synth pad, synthesizer, tabla, taiko, tambourine, theremin, timpani, "
    "triangle, trombone, trumpet, tuba, turntable, twelve-string guitar, ukulele, upright bass, vibraphone, viola, "
    "violin, wood block, xylophone, zither",
    "mood": "aggressive, airy, angry, anthemic, atmospheric, bittersweet, bouncy, bright, calm, carefree, catchy, "
    "cheerful, chill, confident, cozy, cute, dark, defiant, dramatic, dreamy, driving, eerie, emotional, energetic, "
    "epic, ethereal, euphoric, festive, fierce, fun, gentle, gloomy, groovy, happy, haunting, heartfelt, heavy, "
    "hopeful, hypnotic, innocent, inspiring, intense, intimate, introspective, joyful, laid-back, lonely, longing, "
    "majestic, meditative, melancholic, mellow, moody, mysterious, nocturnal, nostalgic, ominous, optimistic, "
    "passionate, peaceful, playful, powerful, quirky, raw, rebellious, reflective, relaxed, restless, romantic, sad, "
    "sensual, sentimental, serene, serious, smooth, solemn, soft, somber, soothing, spiritual, sunny, suspenseful, "
    "sweet, tender, tense, triumphant, upbeat, uplifting, warm, whimsical, wistful",
    "tempo": "fast tempo, medium tempo, slow tempo",
    "key": "major key, minor key",
}

TAG_WORDS = {kind: tuple(words.split(", ")) for kind, words in _WORDS.items()}
"""Kind of tag -> tags, in lower case and singular, except instruments that are always plural, such as drums. Any
`<number> bpm` and any key by name are valid too."""

_OTHER_FORMS = {
    "style": "rnb",
    "voice": r"voices? singers? sings? singing sung (?:fe)?male rapper man woman",
    "instruments": r"synth\w* saxes sax bass\w* pads?",
    "mood": "melancholy relaxing",
    "tempo": r"\d+(?:\.\d+)?\s*bpm (?:fast|slow|medium|mid|moderate|up)\W?tempo tempo fast slow",
    "key": r"(?:[a-g][#b♯♭]?\W(?:sharp\W|flat\W)?)?(?:major|minor)",
}


def _form(word: str) -> str:
    """Return the pattern of a word, in singular or plural, with spaces and hyphens as equals."""
    singular = word[:-1] if word.endswith("s") and not word.endswith("ss") else word
    return r"[\s-]?".join(map(re.escape, re.split("[ -]", singular))) + "s?"


TAG_KINDS = {
    kind: re.compile(rf"\b(?:{'|'.join([*map(_form, words), *_OTHER_FORMS[kind].split()])})(?!\w)", re.IGNORECASE)
    for kind, words in TAG_WORDS.items()
}
"""Kind of tag -> pattern that matches any tag of this kind."""


def missing_tag_kinds(caption: str) -> tuple[str, ...]:
    """Return the kinds of which a caption has no tag."""
    return tuple(kind for kind, pattern in TAG_KINDS.items() if not pattern.search(caption))
