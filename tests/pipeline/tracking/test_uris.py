from pipeline.tracking.uris import without_secrets


def test_passwords_leave_urls() -> None:
    assert without_secrets("at http://user:secret@host:5000/x?y=1") == "at http://host:5000/x?y=1"
