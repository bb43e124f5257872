"""Records on disk before the answer.

Frames are appended to segment files. One thread writes whatever has been handed over and syncs it
in one go, so that many predictions share an fdatasync and a lone one waits for nothing but the
disk. The shipper reads the same files behind the writer; a segment goes when everything in it has
been confirmed.
"""
