"""Checkpoints: find, fetch, check, convert, keep. ``prepare`` is the usual way in; importing this loads nothing.

A folder is read once into a description, which becomes a plan, which a writer carries out:

    resolve, hub, hub_api, download, default, places   from what a user typed to a folder
    source, family, adapters, weight_files             the folder's description; what is refused, by name
    mapping, tensors, thudm                            its tensors, mapped: an import format begins here
    plan, encode                                       which tensor becomes what; slices in INT4
    convert, writer, target                            the low-bit folder: an export format begins here
    manifest, lowbit, derived                          the low-bit folder, opened
    cache, lock, preflight, progress                   what is kept, who writes, is there room, how far
"""
