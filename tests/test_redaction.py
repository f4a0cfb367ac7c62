"""What is told is without secrets and cannot pose as something else; what is worked with stays as it was given."""

import doctest

import pytest

from transforms import redaction
from transforms.errors import FailureCode, ImageError, Stage
from transforms.records import Failure, ImageRef
from transforms.redaction import printable, redact, redact_flags, redact_url, redact_value, says_secret, tell
from transforms.tables import failures_batch

SIGNED = "https://host/cat.jpg?X-Amz-Credential=AKIA&X-Amz-Signature=f00"


def test_examples_are_true() -> None:
    """Those of the docstrings."""
    assert doctest.testmod(redaction).failed == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (SIGNED, "https://host/cat.jpg?***"),
        ("http://host:8080/a/b?token=x", "http://host:8080/a/b?***"),
        ("HTTPS://HOST/?a=b", "HTTPS://HOST/?***"),  # schemes have no case
        ("https://me:secret@host/x", "https://***@host/x"),
        ("https://ghp_token@host/x", "https://***@host/x"),  # a token alone stands where the user does
        ("https://me:p@ss@host/x", "https://***@host/x"),  # up to the last @ of the place
        ("https://host/@scope/x@2", "https://host/@scope/x@2"),  # an @ of the path is none
        ("https://host/page#access_token=x", "https://host/page#***"),
        ("https://host?x=y", "https://host?***"),
        ("jdbc:postgresql://me:secret@host/db?ssl=1", "jdbc:postgresql://***@host/db?***"),
        (f"reading '{SIGNED}' failed", "reading 'https://host/cat.jpg?***' failed"),
        (f"{SIGNED}: 403; check it", "https://host/cat.jpg?***: 403; check it"),
        (f"(see {SIGNED}).", "(see https://host/cat.jpg?***)."),
        (f"<Url>{SIGNED}</Url>", "<Url>https://host/cat.jpg?***</Url>"),
        (f"{SIGNED},https://u:p@h/y?z=1", "https://host/cat.jpg?***"),  # the rest is part of the query
        ("https://h/x,https://u:p@i/y?z=1", "https://h/x,https://***@i/y?***"),
        ("s3://key:secret@bucket/x", "s3://***@bucket/x"),  # no bucket is called so
    ],
)  # fmt: skip
def test_secrets_of_urls_are_taken_out(text: str, told: str) -> None:
    """Users, passwords, queries and fragments; once is enough, twice changes nothing."""
    assert redact(text) == told
    assert redact(told) == told


@pytest.mark.parametrize(
    "text",
    [
        "/photos/what?.jpg", "/photos/a=b&token=c#1.jpg", "photos/me:secret@home.jpg", "s3://bucket/a?b=c#d.jpg",
        "gs://bucket/who@home?.jpg", "S3://bucket/a?b", "file:///photos/a?b#c.jpg", "what? #1 me@home", "a://b", "://?",
    ],
)  # fmt: skip
def test_names_that_are_no_urls_with_secrets_stay_letter_for_letter(text: str) -> None:
    """A local file or a key of a bucket may hold ? and #, @ and =."""
    assert redact(text) == text


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://host/a cat.jpg?X-Amz-Signature=f00", "https://host/a cat.jpg?***"),
        ("https://host/cat.jpg?a=b c&sig=f00", "https://host/cat.jpg?***"),
        ("https://host/a\ncat.jpg?sig=f\n00", "https://host/a\ncat.jpg?***"),
        ('https://host/"a<b>.jpg#token=f 00', 'https://host/"a<b>.jpg#***'),
        ("https://me:pass word@host/x", "https://***@host/x"),
        ("s3://key:se cret@bucket/a b?c#d.jpg", "s3://***@bucket/a b?c#d.jpg"),
        (SIGNED, "https://host/cat.jpg?***"),
        ("HTTPS://host/a b?c", "HTTPS://host/a b?***"),
        ("s3x://host/a b?c", "s3x://host/a b?***"),  # its name only begins like a bucket's
    ],
)  # fmt: skip
def test_a_text_that_is_one_url_is_redacted_to_its_end(url: str, told: str) -> None:
    """White space, quotes and brackets end a URL in a sentence; a name in a manifest may hold them."""
    assert redact_url(url) == told
    assert redact_url(told) == told
    assert redact(f"of {told} is not supported") == f"of {told} is not supported"


@pytest.mark.parametrize(
    "name",
    [
        "/photos/a b?.jpg",
        "S3://bucket/a b?c#d@e",
        "gs://bucket/who @home?.jpg",
        "file:///a b?c#d",
        "https://h/a b",
        "?",
    ],
)
def test_a_whole_name_without_secrets_stays_letter_for_letter(name: str) -> None:
    """A local file or a key of a bucket may hold ? and #."""
    assert redact_url(name) == name


@pytest.mark.timeout(20)
def test_a_long_text_takes_no_long_time() -> None:
    """A message may quote what a stranger sent: none of it makes a pattern try again and again."""
    for text in ("a" * 300_000, "://" * 100_000, "a://" * 75_000, "https://" + "@" * 300_000, "h://x?" * 50_000):
        assert len(redact(f"{text} ://")) <= len(text) + 10
        assert len(redact_url(f"{text} ://")) <= len(text) + 10


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("HUB_TOKEN", True), ("--s3_secret_access_key", True), ("api-key", True), ("apiKey", True), ("APIKEY", True),
        ("DB_PASSWORD", True), ("DBPASSWORD", True), ("GOOGLE_APPLICATION_CREDENTIALS", True), ("KEY_2", True),
        ("MODEL", False), ("PWD", False), ("monkey", False), ("TOKENIZER", False), ("path_column", False),
        ("keyboard", False),
    ],
)  # fmt: skip
def test_names_say_whether_they_are_secret(name: str, secret: bool) -> None:
    """By whole words, in the spellings of flags, variables and settings."""
    assert says_secret(name) is secret


def test_values_are_redacted_however_deep() -> None:
    """Texts by their URLs, what stands under a secret name whole; numbers and the value itself stay."""
    value = {"a": [SIGNED, 1, None, ("x", True)], "b": {"token": "abc", "tokens": 3}, "c": "abc"}
    assert redact_value(value) == {
        "a": ["https://host/cat.jpg?***", 1, None, ["x", True]], "b": {"token": "***", "tokens": 3}, "c": "abc",
    }  # fmt: skip
    assert value["b"] == {"token": "abc", "tokens": 3}


def test_values_that_are_secret_are_removed_wherever_they_stand() -> None:
    """The longer of two that share a beginning first; an empty one is none."""
    assert redact_value({"path": "https://hub/abcd/abc/m"}, ["abc", "", "abcd"]) == {"path": "https://hub/***/***/m"}


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--s3_secret_access_key=abc"], ["--s3_secret_access_key=***"]),
        (["--s3_secret_access_key=a=b"], ["--s3_secret_access_key=***"]),
        (["--s3_secret_access_key", "abc", "--runner", "X"], ["--s3_secret_access_key", "***", "--runner", "X"]),
        (["--use_token", "--runner=X", "y"], ["--use_token", "--runner=X", "y"]),  # a flag without a value
        (["--runner=FlinkRunner", "--parallelism=2"], ["--runner=FlinkRunner", "--parallelism=2"]),
        (["--index=https://u:p@host/x?y"], ["--index=https://***@host/x?***"]),
        (['--environment_config={"env": {"API_TOKEN": "abc", "A": "b"}}'],
         ['--environment_config={"env": {"API_TOKEN": "***", "A": "b"}}']),
        (["--environment_options=process_variables=AWS_SECRET_ACCESS_KEY=abc,FOO=bar"],
         ["--environment_options=process_variables=AWS_SECRET_ACCESS_KEY=***,FOO=bar"]),
        (["--environment_options", "process_variables=DB_PASSWORD=abc"],
         ["--environment_options", "process_variables=DB_PASSWORD=***"]),
    ],
)  # fmt: skip
def test_flags_are_told_without_their_secrets(flags: list[str], told: list[str]) -> None:
    """In one word and in two, and the environments that flags hand to workers."""
    assert redact_flags(flags) == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("line\nend\r\ttab\x00", r"line\nend\r\ttab\x00"),
        ("\x1b[31mred\x1b]0;title\x07", r"\x1b[31mred\x1b]0;title\x07"),
        ("\x9b31m\x85", r"\x9b31m\x85"),  # the same in one character, and a line end
        ("cat\u202egpj.exe\u2066\u200f", r"cat\u202egpj.exe\u2066\u200f"),  # written backwards
        ("a\u2028b\u2029c\ufeffd\u00ade", r"a\u2028b\u2029c\ufeffd\xade"),
        ("half \udce9", r"half \udce9"),  # of a name that is not UTF-8
        (
            "ñandú 猫 \u3000 日本 \xa0 [bold] \\n 👩\u200d🍳 \u0645\u06cc\u200c\u062e",
            None,
        ),  # letters and spaces of all languages
    ],
)
def test_characters_that_act_are_shown_as_escapes(text: str, told: str | None) -> None:
    """And nothing else is changed."""
    assert printable(text) == (text if told is None else told)
    assert printable(printable(text)) == printable(text)


def test_a_message_keeps_its_own_lines_and_gains_none() -> None:
    """Lines that go on are indented; a name cannot begin one."""
    assert (
        tell(f"config has 2 problems:\n  a\n  b {SIGNED}")
        == "config has 2 problems:\n  a\n  b https://host/cat.jpg?***"
    )
    assert tell("cat\n2026-11-26 ERROR all is lost") == r"cat\n2026-11-26 ERROR all is lost"


def test_failures_are_without_secrets_in_code_and_in_the_table() -> None:
    """An error of a storage may quote a signed URL; the image's path is the one that was listed."""
    error = ImageError(FailureCode.READ_ERROR, f"reading failed: {SIGNED} answered 403")
    assert (error.message, str(error)) == (
        "reading failed: https://host/cat.jpg?*** answered 403",
        "read_error: reading failed: https://host/cat.jpg?*** answered 403",
    )
    path = "/photos/what?token=1\n.jpg"
    failure = Failure(ImageRef(path, None, None), Stage.SCORE, FailureCode.MODEL_ERROR, f"no {SIGNED}", 0)
    (row,) = failures_batch([failure]).to_pylist()
    assert (row["image_path"], row["message"]) == (path, "no https://host/cat.jpg?***")
