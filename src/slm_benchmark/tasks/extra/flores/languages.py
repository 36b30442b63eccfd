"""English names of the languages of FLORES+ and of FLORES-200, as the prompts write them.

FLORES+ renamed some of the codes of FLORES-200; both are known here. A script or a variety is
named where the set has the language in more than one.
"""

_NAMES = """
ace_Arab Acehnese in Arabic script
ace_Latn Acehnese
acm_Arab Mesopotamian Arabic
acq_Arab Ta'izzi-Adeni Arabic
aeb_Arab Tunisian Arabic
afr_Latn Afrikaans
ajp_Arab South Levantine Arabic
aka_Latn Akan
als_Latn Albanian
amh_Ethi Amharic
apc_Arab North Levantine Arabic
apc_Arab_nort3139 North Levantine Arabic
apc_Arab_sout3123 South Levantine Arabic
arb_Arab Arabic
arb_Latn Arabic in Latin script
ars_Arab Najdi Arabic
ary_Arab Moroccan Arabic
arz_Arab Egyptian Arabic
asm_Beng Assamese
ast_Latn Asturian
awa_Deva Awadhi
ayr_Latn Aymara
azb_Arab South Azerbaijani
azj_Latn Azerbaijani
bak_Cyrl Bashkir
bam_Latn Bambara
ban_Latn Balinese
bel_Cyrl Belarusian
bem_Latn Bemba
ben_Beng Bengali
bho_Deva Bhojpuri
bjn_Arab Banjar in Arabic script
bjn_Latn Banjar
bod_Tibt Tibetan
bos_Latn Bosnian
brx_Deva Bodo
bug_Latn Buginese
bul_Cyrl Bulgarian
cat_Latn Catalan
ceb_Latn Cebuano
ces_Latn Czech
chv_Cyrl Chuvash
cjk_Latn Chokwe
ckb_Arab Central Kurdish
cmn_Hans Chinese in simplified characters
cmn_Hant Chinese in traditional characters
crh_Latn Crimean Tatar
cym_Latn Welsh
dan_Latn Danish
deu_Latn German
dgo_Deva Dogri
dik_Latn Dinka
dyu_Latn Dyula
dzo_Tibt Dzongkha
ekk_Latn Estonian
ell_Grek Greek
eng_Latn English
epo_Latn Esperanto
est_Latn Estonian
eus_Latn Basque
ewe_Latn Ewe
fao_Latn Faroese
fij_Latn Fijian
fil_Latn Filipino
fin_Latn Finnish
fon_Latn Fon
fra_Latn French
fur_Latn Friulian
fuv_Latn Nigerian Fulfulde
gaz_Latn Oromo
gla_Latn Scottish Gaelic
gle_Latn Irish
glg_Latn Galician
gom_Deva Goan Konkani
grn_Latn Guarani
gug_Latn Guarani
guj_Gujr Gujarati
hat_Latn Haitian Creole
hau_Latn Hausa
heb_Hebr Hebrew
hin_Deva Hindi
hne_Deva Chhattisgarhi
hrv_Latn Croatian
hun_Latn Hungarian
hye_Armn Armenian
ibo_Latn Igbo
ilo_Latn Ilocano
ind_Latn Indonesian
isl_Latn Icelandic
ita_Latn Italian
jav_Latn Javanese
jpn_Jpan Japanese
kab_Latn Kabyle
kac_Latn Jingpho
kam_Latn Kamba
kan_Knda Kannada
kas_Arab Kashmiri in Arabic script
kas_Deva Kashmiri in Devanagari script
kat_Geor Georgian
kaz_Cyrl Kazakh
kbp_Latn Kabiyè
kea_Latn Kabuverdianu
khk_Cyrl Mongolian
khm_Khmr Khmer
kik_Latn Kikuyu
kin_Latn Kinyarwanda
kir_Cyrl Kyrgyz
kmb_Latn Kimbundu
kmr_Latn Northern Kurdish
knc_Arab Kanuri in Arabic script
knc_Latn Kanuri in Latin script
kon_Latn Kikongo
kor_Hang Korean
ktu_Latn Kituba
lao_Laoo Lao
lij_Latn Ligurian
lim_Latn Limburgish
lin_Latn Lingala
lit_Latn Lithuanian
lmo_Latn Lombard
ltg_Latn Latgalian
ltz_Latn Luxembourgish
lua_Latn Luba-Kasai
lug_Latn Ganda
luo_Latn Luo
lus_Latn Mizo
lvs_Latn Latvian
mag_Deva Magahi
mai_Deva Maithili
mal_Mlym Malayalam
mar_Deva Marathi
mhr_Cyrl Meadow Mari
min_Arab Minangkabau in Arabic script
min_Latn Minangkabau
mkd_Cyrl Macedonian
mlt_Latn Maltese
mni_Beng Meitei in Bengali script
mni_Mtei Meitei in Meitei script
mos_Latn Mossi
mri_Latn Maori
mya_Mymr Burmese
nld_Latn Dutch
nno_Latn Norwegian Nynorsk
nob_Latn Norwegian Bokmål
npi_Deva Nepali
nqo_Nkoo N'Ko
nso_Latn Northern Sotho
nus_Latn Nuer
nya_Latn Nyanja
oci_Latn Occitan
ory_Orya Odia
pag_Latn Pangasinan
pan_Guru Punjabi
pap_Latn Papiamento
pbt_Arab Pashto
pes_Arab Persian
plt_Latn Malagasy
pol_Latn Polish
por_Latn Portuguese
prs_Arab Dari
quy_Latn Ayacucho Quechua
ron_Latn Romanian
run_Latn Rundi
rus_Cyrl Russian
sag_Latn Sango
san_Deva Sanskrit
sat_Olck Santali
scn_Latn Sicilian
shn_Mymr Shan
sin_Sinh Sinhala
slk_Latn Slovak
slv_Latn Slovenian
smo_Latn Samoan
sna_Latn Shona
snd_Arab Sindhi
snd_Deva Sindhi in Devanagari script
som_Latn Somali
sot_Latn Southern Sotho
spa_Latn Spanish
srd_Latn Sardinian
srp_Cyrl Serbian
ssw_Latn Swati
sun_Latn Sundanese
swe_Latn Swedish
swh_Latn Swahili
szl_Latn Silesian
tam_Taml Tamil
taq_Latn Tamasheq in Latin script
taq_Tfng Tamasheq in Tifinagh script
tat_Cyrl Tatar
tel_Telu Telugu
tgk_Cyrl Tajik
tgl_Latn Filipino
tha_Thai Thai
tir_Ethi Tigrinya
tpi_Latn Tok Pisin
tsn_Latn Tswana
tso_Latn Tsonga
tuk_Latn Turkmen
tum_Latn Tumbuka
tur_Latn Turkish
twi_Latn Twi
twi_Latn_akua1239 Akuapem Twi
twi_Latn_asan1239 Asante Twi
tzm_Tfng Central Atlas Tamazight
uig_Arab Uyghur
ukr_Cyrl Ukrainian
umb_Latn Umbundu
urd_Arab Urdu
uzn_Latn Uzbek
vec_Latn Venetian
vie_Latn Vietnamese
war_Latn Waray
wol_Latn Wolof
xho_Latn Xhosa
ydd_Hebr Yiddish
yor_Latn Yoruba
yue_Hant Cantonese
zgh_Tfng Moroccan Tamazight
zho_Hans Chinese in simplified characters
zho_Hant Chinese in traditional characters
zsm_Latn Malay
zul_Latn Zulu
"""

LANGUAGES = {
    code: name for code, _, name in (line.partition(" ") for line in _NAMES.split("\n") if line)
}
"""Code of the language and its script → its name in English."""
