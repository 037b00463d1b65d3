"""A clip's media type, by its first bytes: stored clips have no file extension."""


def mime_type(head: bytes) -> str:
    """The media type of a clip as Gemini names it."""
    if head[:4] == b"RIFF":
        return "video/avi"
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "video/webm"
    if head[:4] == b"\x00\x00\x01\xba":
        return "video/mpeg"
    return "video/quicktime" if head[4:10] == b"ftypqt" else "video/mp4"
