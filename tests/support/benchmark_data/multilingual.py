"""FLORES+, XNLI and Belebele: two to four sentences in each language, about numbered houses."""

from __future__ import annotations

from typing import NamedTuple

from tests.support.benchmark_data.types import Configs, Row


class _Language(NamedTuple):
    """A language by its codes in the three sets, and its sentences.

    Attributes:
        flores: Code in FLORES+; empty where the direction list does not have it.
        belebele: Code in Belebele; empty where the list of variants does not have it.
        cat: A cat lives in house {n}.
        empty: House {n} is empty.
        xnli: Code in XNLI; empty where XNLI lacks the language.
        animal: An animal lives in house {n}.
        black: The cat in house {n} is black.
    """

    flores: str
    belebele: str
    cat: str
    empty: str
    xnli: str = ""
    animal: str = ""
    black: str = ""


# fmt: off
LANGUAGES = (
    _Language("eng_Latn", "eng_Latn", "A cat lives in house {n}.", "House {n} is empty.",
              "en", "An animal lives in house {n}.", "The cat in house {n} is black."),
    _Language("deu_Latn", "deu_Latn", "In Haus {n} wohnt eine Katze.", "Haus {n} ist leer.",
              "de", "In Haus {n} wohnt ein Tier.", "Die Katze in Haus {n} ist schwarz."),
    _Language("fra_Latn", "fra_Latn", "Un chat vit dans la maison {n}.", "La maison {n} est vide.",
              "fr", "Un animal vit dans la maison {n}.", "Le chat de la maison {n} est noir."),
    _Language("spa_Latn", "spa_Latn", "Un gato vive en la casa {n}.", "La casa {n} está vacía.",
              "es", "Un animal vive en la casa {n}.", "El gato de la casa {n} es negro."),
    _Language("rus_Cyrl", "rus_Cyrl", "В доме {n} живёт кошка.", "Дом {n} пуст.",
              "ru", "В доме {n} живёт животное.", "Кошка в доме {n} чёрная."),
    _Language("", "", "В къща {n} живее котка.", "Къща {n} е празна.",
              "bg", "В къща {n} живее животно.", "Котката в къща {n} е черна."),
    _Language("", "", "Μια γάτα ζει στο σπίτι {n}.", "Το σπίτι {n} είναι άδειο.",
              "el", "Ένα ζώο ζει στο σπίτι {n}.", "Η γάτα στο σπίτι {n} είναι μαύρη."),
    _Language("", "", "Paka anaishi katika nyumba {n}.", "Nyumba {n} ni tupu.",
              "sw", "Mnyama anaishi katika nyumba {n}.", "Paka wa nyumba {n} ni mweusi."),
    _Language("arb_Arab", "arb_Arab", "تعيش قطة في البيت {n}.", "البيت {n} فارغ.",
              "ar", "يعيش حيوان في البيت {n}.", "القطة في البيت {n} سوداء."),
    _Language("hin_Deva", "hin_Deva", "घर {n} में एक बिल्ली रहती है।", "घर {n} खाली है।",
              "hi", "घर {n} में एक जानवर रहता है।", "घर {n} की बिल्ली काली है।"),
    _Language("urd_Arab", "urd_Arab", "گھر {n} میں ایک بلی رہتی ہے۔", "گھر {n} خالی ہے۔",
              "ur", "گھر {n} میں ایک جانور رہتا ہے۔", "گھر {n} کی بلی کالی ہے۔"),
    _Language("tha_Thai", "tha_Thai", "มีแมวอาศัยอยู่ในบ้าน {n}", "บ้าน {n} ว่างเปล่า",
              "th", "มีสัตว์อาศัยอยู่ในบ้าน {n}", "แมวในบ้าน {n} เป็นสีดำ"),
    _Language("tur_Latn", "tur_Latn", "{n} numaralı evde bir kedi yaşıyor.", "{n} numaralı ev boş.",
              "tr", "{n} numaralı evde bir hayvan yaşıyor.", "{n} numaralı evdeki kedi siyah."),
    _Language("vie_Latn", "vie_Latn", "Một con mèo sống trong nhà {n}.", "Nhà {n} trống không.",
              "vi", "Một con vật sống trong nhà {n}.", "Con mèo trong nhà {n} màu đen."),
    _Language("cmn_Hans", "zho_Hans", "{n}号房子里住着一只猫。", "{n}号房子是空的。",
              "zh", "{n}号房子里住着一只动物。", "{n}号房子里的猫是黑色的。"),
    _Language("por_Latn", "por_Latn", "Um gato vive na casa {n}.",
              "A casa {n} está vazia."),
    _Language("ita_Latn", "ita_Latn", "Un gatto vive nella casa {n}.",
              "La casa {n} è vuota."),
    _Language("nld_Latn", "nld_Latn", "In huis {n} woont een kat.",
              "Huis {n} is leeg."),
    _Language("ces_Latn", "ces_Latn", "V domě {n} žije kočka.", "Dům {n} je prázdný."),
    _Language("pol_Latn", "pol_Latn", "W domu {n} mieszka kot.", "Dom {n} jest pusty."),
    _Language("pes_Arab", "pes_Arab", "یک گربه در خانه {n} زندگی می‌کند.",
              "خانه {n} خالی است."),
    _Language("heb_Hebr", "heb_Hebr", "חתול גר בבית {n}.", "בית {n} ריק."),
    _Language("jpn_Jpan", "jpn_Jpan", "{n}番の家には猫が住んでいます。", "{n}番の家は空です。"),
    _Language("kor_Hang", "kor_Hang", "{n}번 집에는 고양이가 살고 있습니다.",
              "{n}번 집은 비어 있습니다."),
    _Language("ind_Latn", "ind_Latn", "Seekor kucing tinggal di rumah {n}.",
              "Rumah {n} kosong."),
    _Language("zsm_Latn", "zsm_Latn", "Seekor kucing tinggal di rumah {n}.",
              "Rumah {n} kosong."),
    _Language("lao_Laoo", "lao_Laoo", "ມີແມວອາໄສຢູ່ໃນເຮືອນ {n}.",
              "ເຮືອນ {n} ຫວ່າງເປົ່າ."),
    _Language("mya_Mymr", "mya_Mymr", "အိမ် {n} တွင် ကြောင်တစ်ကောင် နေသည်။",
              "အိမ် {n} သည် လွတ်နေသည်။"),
    _Language("ceb_Latn", "ceb_Latn", "Adunay iring nga nagpuyo sa balay {n}.",
              "Walay sulod ang balay {n}."),
    _Language("khm_Khmr", "khm_Khmr", "មានឆ្មាមួយរស់នៅក្នុងផ្ទះ {n}។", "ផ្ទះ {n} ទទេ។"),
    _Language("fil_Latn", "tgl_Latn", "May pusang nakatira sa bahay {n}.",
              "Walang laman ang bahay {n}."),
    _Language("ben_Beng", "ben_Beng", "{n} নম্বর বাড়িতে একটি বিড়াল থাকে।",
              "{n} নম্বর বাড়িটি খালি।"),
)
# fmt: on


def repositories() -> dict[str, Configs]:
    """The category's repositories."""
    return {
        "openlanguagedata/flores_plus": {
            language.flores: {
                "dev": [_flores(language, i) for i in range(6)],
                "devtest": [_flores(language, 20 + i) for i in range(8)],
            }
            for language in LANGUAGES
            if language.flores
        },
        "facebook/xnli": {
            language.xnli: {"validation": [_xnli(language, i) for i in range(9)]}
            for language in LANGUAGES
            if language.xnli
        },
        "facebook/belebele": {
            language.belebele: {"test": [_belebele(language, i) for i in range(8)]}
            for language in LANGUAGES
            if language.belebele
        },
    }


def _flores(language: _Language, i: int) -> Row:
    iso_639_3, iso_15924 = language.flores.split("_")
    sentence = language.empty if i % 2 else language.cat
    return {
        "id": i,
        "iso_639_3": iso_639_3,
        "iso_15924": iso_15924,
        "glottocode": "none0000",
        "text": sentence.format(n=i + 1),
        "url": "https://example.org/houses",
        "domain": "wikinews",
        "topic": "houses",
        "has_image": "no",
        "has_hyperlink": "no",
        "last_updated": "1.0",
    }


def _xnli(language: _Language, i: int) -> Row:
    """Labels: 0 entailment, 1 neutral, 2 contradiction."""
    label = i % 3
    hypothesis = (language.animal, language.black, language.empty)[label]
    return {
        "premise": language.cat.format(n=i),
        "hypothesis": hypothesis.format(n=i),
        "label": label,
    }


def _belebele(language: _Language, i: int) -> Row:
    house, right = 5 + i, i % 4
    return {
        "link": "https://example.org/houses",
        "question_number": 1,
        "flores_passage": language.cat.format(n=house) + " " + language.empty.format(n=house + 9),
        "question": language.cat.format(n="___"),
        **{f"mc_answer{place + 1}": str(house - right + place) for place in range(4)},
        "correct_answer_num": str(right + 1),
        "dialect": language.belebele,
        "ds": "2023-05-03",
    }
