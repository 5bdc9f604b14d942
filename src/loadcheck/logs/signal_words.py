"""What shells print when a signal ends a process, in English and in the languages of glibc's and bash's translations.

In other languages the word for `Terminated` may also mean that something is done, so it counts only after a shell's own prefix.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable
from functools import cache

ENGLISH = {  # strsignal(3); zsh prints the same in small letters
    "Hangup": signal.SIGHUP, "Quit": signal.SIGQUIT, "Illegal instruction": signal.SIGILL, "Trace/breakpoint trap": signal.SIGTRAP,
    "Aborted": signal.SIGABRT, "Bus error": signal.SIGBUS, "Floating point exception": signal.SIGFPE, "Killed": signal.SIGKILL,
    "killed": signal.SIGKILL, "Segmentation fault": signal.SIGSEGV, "segmentation fault": signal.SIGSEGV, "aborted": signal.SIGABRT,
    "Terminated": signal.SIGTERM, "terminated": signal.SIGTERM, "Bad system call": signal.SIGSYS, "Alarm clock": signal.SIGALRM,
    "CPU time limit exceeded": signal.SIGXCPU, "File size limit exceeded": signal.SIGXFSZ, "User defined signal 1": signal.SIGUSR1,
    "User defined signal 2": signal.SIGUSR2, "Abort trap": signal.SIGABRT,
}  # fmt: skip
_OF_ZSH = {  # Src/signames1.awk of zsh; what also is a word of English counts only after zsh's own prefix
    "hangup": signal.SIGHUP, "quit": signal.SIGQUIT, "illegal hardware instruction": signal.SIGILL, "trace trap": signal.SIGTRAP,
    "abort": signal.SIGABRT, "bus error": signal.SIGBUS, "floating point exception": signal.SIGFPE, "invalid system call": signal.SIGSYS,
    "cpu limit exceeded": signal.SIGXCPU, "file size limit exceeded": signal.SIGXFSZ, "alarm": signal.SIGALRM,
}  # fmt: skip
_TRANSLATED = {  # every translation of the English word in glibc 2.36 (libc.mo) and bash 5.2 (bash.mo)
    signal.SIGKILL: """
        Abgebrochen (Killed) | Buĉita | Bị buộc kết thúc | Bị giết | Dibunuh | Drept | Dræbt | Dödad | Getötet | Geëlimineerd |
        Kilőve | Maraithe | Matado | Matat | Mort | Morto | Morto (Killed) | Murdu | Nutraukta (killed) | Omorât | Pobit |
        Processus arrêté | Slået ihjel | Süreç durduruldu | Tapettu | Terbunuh | Terminado (killed) | Tué | Ubijen | Ucciso |
        Unicestwiony | Uničen | Zabit | Zabit (SIGKILL) | Zabitý | Öldürüldü | Σκοτώθηκε | Безусловно прекъснат | Вбитий | Вбито |
        Забіты | Убит | Убито | Убијен | 已杀死 | 強制終了 | 強制結束 | 죽었음
    """,
    signal.SIGSEGV: """
        Adres-eraro | Adreseraro | Adressierungsfehler | Bölünme hatası | Chyba segmentace | Chyba segmentácie |
        Eroare de segmentare | Erreur de segmentation | Errore di segmentazione | Fabht deighilte | Falha de segmentação |
        Fallo de segmento | Falta de segmentação | Kerusakan segmentasi | Kesalahan segmentasi | Lỗi phân đoạn | Minnesegmentsfeil |
        Muistialueen ylitys | Napaka segmentacije | Naruszenie ochrony pamięci | Neoprávněný přístup do paměti (SIGSEGV) |
        Parçalama arızası | Segmentacijos klaida | Segmentacijska greška | Segmentatiefout | Segmentavimo klaida |
        Segmenteringsfeil | Segmenteringsfejl | Segmenteringsfel | Segmentfejl | Speicherzugriffsfehler | Szegmenshiba |
        Szegmentálási hiba | Violació de segment | Violación de segmento | Σφάλμα κατάτμησης |
        Σφάλμα κατάτμησης (segmentation fault) | Грешка в разделянето | Збой сэгмэнтацыі | Нарушение на разделянето(segfault) |
        Неуспех сегментације | Ошибка сегментации | Ошибка сегментирования | Помилка адресування | セグメンテーションフォルト | 段错误 | 程式記憶體區段錯誤 |
        세그먼테이션 오류 | 세그멘테이션 오류
    """,
    signal.SIGABRT: """
        Abandon | Abgebrochen | Abortado | Abortita | Afbrudt (SIGABRT) | Afgebroken | Annullato | Avbruten (SIGABRT) |
        Avbrutt (SIGABRT) | Avortat | Bị hủy bỏ | Dibatalkan | Félbeszakítva | Keskeytetty | Neúspěšně ukončen (SIGABRT) |
        Nutraukta (aborted) | Prekid | Prekinjen | Przerwane | Zrušené | İptal edildi | Ακυρώθηκε | Аварийный останов | Перервано |
        Прекинуто | Прекъснат | 中止 | 已放弃 | 중지됨
    """,
    signal.SIGBUS: """
        Bus-Fehler | Bus-Zugriffsfehler | Bus-eraro | Bus-fejl | Busfejl | Busfout | Bussfeil | Bussfel | Busz hiba | Buszhiba |
        Błąd szyny | Chyba na sběrnici (neplatná adresa) (SIGBUS) | Chyba na zbernici | Chyba sběrnice | Earráid bhus |
        Eroare de magistrală de date(bus) | Erreur de bus | Erreur du bus | Erro de bus | Erro do barramento | Erro no barramento |
        Erro no bus | Erro no bus de datos | Error de bus | Error del bus | Errore di bus | Greška sabirnice | Lỗi bus |
        Magistralės klaida | Napaka vodila | Sabirnička greška | Veri yolu hatası | Veriyolu hatası | Väylävirhe | chyba zbernice |
        Σφάλμα στον δίαυλο(bus) | Грешка в шината | Грешка на адресната шина | Грешка сабирнице | Ошибка шины | Памылка шыны |
        Помилка каналу обміну даними | Помилка шини | バスエラー | 匯流排錯誤 | 总线错误 | 버스 오류
    """,
    signal.SIGILL: """
        Błędna instrukcja | Chỉ lệnh không hợp lệ | Câu lệnh không được phép | Geçersiz talimat | Instrucció il·legal |
        Instrucción ilegal | Instrucción non permitida | Instrución ilegal | Instruction incorrecte | Instruction non permise |
        Instrucțiune ilegală | Instruksi ilegal | Instruksi tidak legal | Instrução ilegal | Istruzione non consentita |
        La instrucció no és permesa | Miskomando | Nedopuštena instrukcija | Nedovolená instrukce (SIGILL) | Nedovoljen ukaz |
        Neplatná instrukce | Neplatná inštrukcia | Nepropisna instrukcija | Neprípustná inštrukcia | Netaisyklinga instrukcija |
        Neveljaven ukaz | Niedozwolona instrukcja | Ongeldige instructie | Otillåten instruktion | Treoir mídhleathach |
        Ugyldig instruks | Ugyldig instruktion | Ulovlig instruksjon (SIGILL) | Ulovlig instruktion (SIGILL) | Ungültige Anweisung |
        Ungültiger Maschinenbefehl | Virheellinen käsky | Yönerge kuraldışı | Érvénytelen utasítás | Ακατάλληλη εντολή |
        Μη έγκυρη οδηγία | Недапушчальнае прадпісаньне | Недопустимая инструкция | Незаконна инструкция | Неисправна инструкција |
        Неправилна инструкция | Помилкова інструкція | 不正な指定 | 無效指令 | 非法指令 | 명령어가 잘못됨 | 부적절한 명령
    """,
    signal.SIGFPE: """
        Błąd w obliczeniach zmiennoprzecinkowych | Drijvendekomma-berekeningsfout | Eccezione in virgola mobile |
        Eisceacht snámhphointe | Eksepsi titik pecahan | Excepció de coma flotant | Excepción de coma flotante |
        Excepción de coma frotante | Exception en point flottant | Exception en virgule flottante | Excepção de vírgula flutuante |
        Excepție de virgulă mobilă | Exceção de ponto flutuante | Flyttallsfeil | Flyttalsfel | Gerçel sayı istisnası |
        Gleitkomma-Ausnahme | Gleitkommafehler | Glitkomkalkul-eraro | Glitpunkta escepto | Izjema s plavajočo vejico |
        Iznimka (broja) pomičnog zareza | Iznimka (broja) s pomičnim zarezom | Kayan nokta istisnası | Kommatalsundtagelse |
        Lebegőpontos kivétel | Liukulukupoikkeus | Lỗi dấu chấm động | Ngoại lệ dấu chấm động | Prekoračitev plavajoče vejice |
        Slankaus kablelio klaida | Undtagelsestilfælde ved flydende taloperation | Unntakstilfelle ved flyttallsoperasjon |
        Výjimka při práci s pohyblivou řádovou čárkou | Výjimka v pohyblivé řádové čárce (SIGFPE) |
        Výnimka pohyblivej rádovej čiarky | Výnimka pri operácii s plávajúcou desatinnou čiarkou | Εξαίρεση κινητής υποδιαστολής |
        Выключэньне плыўной коскі | Изключение от плаваща запетая | Изключение при плаваща запетая | Изузетак покретног зареза |
        Исключение в операции с плавающей точкой | Исключение при обработке чисел с плавающей точкой |
        Помилка обчислень з рухомою комою | 期望浮點數 | 浮動小数点例外 | 浮点异常 | 浮点数例外 | 浮點數例外 | 부동 소수점 예외
    """,
}  # fmt: skip
_TERMINATED = """
    Abgebrochen (Terminated) | Afsluttet | Avslutad | Avslutat | Avsluttet | Beendet | Befejezve | Befejeződött | Beëindigd |
    Bị chấm dứt | Complété | Críochnaithe | Finalitzat | Finiĝu | Nutraukta | Päätetty | Rematado | Selesai | Sonlandırıldı |
    Terakhiri | Terminado | Terminat | Terminato | Termineret | Terminert | Terminé | Ukončen (SIGTERM) | Ukončené | Ukončit |
    Užbaigta (terminated) | Zaključen | Zakończony | Završeno | Ĉesigita | Đã kết thúc | Τερματίστηκε | Τερματισμός | Завершаны |
    Завершено | Окончано | Прекратен | Прерван | Припинено | 已终止 | 終止 | 종료됨 | 중단됨
"""
_TRANSLATED_WORDS = {word.strip(): number for number, words in _TRANSLATED.items() for word in words.split("|")}
_AMBIGUOUS = {word.strip(): signal.SIGTERM for word in _TERMINATED.split("|")}
_SIGNALS = _AMBIGUOUS | _OF_ZSH | ENGLISH | _TRANSLATED_WORDS


def _any(words: Iterable[str]) -> str:
    """A pattern of any of the words, by their first letter: most positions of a text then need one comparison, not one for each word."""
    by_first: dict[str, list[str]] = {}
    for word in sorted(words, key=len, reverse=True):
        by_first.setdefault(word[0], []).append(re.escape(word[1:]))
    return "|".join(f"{re.escape(first)}(?:{'|'.join(rest)})" for first, rest in by_first.items())


# Patterns of 400 words take 20 ms to compile, and every process of a load imports this module: so each is compiled when it is first used.
@cache
def translated() -> re.Pattern[str]:
    """Finds any translated word in one search; 340 searches would be slow."""
    return re.compile(_any(_TRANSLATED_WORDS | _AMBIGUOUS))


_CORE = r"(?: ?[(（].{1,60}[)）])?"
"""`(core dumped)`, in the shell's language."""
_SCRIPT = r"\S{1,255} ?[:,]? ?[^\d:：\n]{0,20}\d{1,9}[^\d:：\n]{0,12}[:：] {1,16}\d{1,10} "
"""bash's `run.sh: line 3:  1234 `; in other languages `run.sh: Zeile 3:`, `run.sh : ligne 3 :`, `run.sh: 第 3 行：`."""
_LEAD = (
    rf"(?:{_SCRIPT}|\[\d{{1,4}}\] {{2,16}}[+-]? {{0,16}}\d{{1,10}} |\[\d{{1,4}}\][+ -] {{2,8}}|zsh: |make(?:\[\d+\])?: \*\*\* \[[^\]]+\] |"
    r"srun: error: \S{1,255}: tasks? [\d,-]{1,99}: )"
)
_REST = rf"(?:: [1-9]\d?)?{_CORE}(?: {{2,}}.*|\s*)$"


@cache
def _shell() -> re.Pattern[str]:
    """bash: `Killed`, `run.sh: line 3:  1234 Killed   python load.py`; without a job's id `[1]+  Killed  python load.py`; zsh: `[1]  1234 killed  python load.py`; make: `*** [Makefile:3: load] Killed`."""
    alone, every = _any(ENGLISH | _TRANSLATED_WORDS), _any(_SIGNALS)
    return re.compile(rf"(?:{_LEAD}(?P<led>{every})|(?P<word>{alone})){_REST}")


@cache
def _glued() -> re.Pattern[str]:
    """The same at the end of a line that a progress bar or unterminated output had begun."""
    alone = _any(ENGLISH | _TRANSLATED_WORDS)
    return re.compile(rf"(?:/s\]|/it\]|\bseconds|\bGi?B|\blayers\.|%)\s?(?P<word>{alone}){_CORE}\s*$")


def find_report(text: str) -> tuple[str, str] | None:
    """A shell's report that a signal ended a process, and the signal's name; None if the line is no such report."""
    if match := _shell().match(text):
        return match.group().strip(), _SIGNALS[match["led"] or match["word"]].name
    if match := _glued().search(text):
        return match.group().strip(), _SIGNALS[match["word"]].name
    return None
