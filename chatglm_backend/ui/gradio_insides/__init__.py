"""All that depends on what Gradio does not document. Everything else of the page uses its documented interface only.

- ``mounting``: takes the mounted applications out of FastAPI's routes, closes what the page does not need, lets
  the queue look for work less often, and has one application made for a page instead of four.
- ``languages`` and ``html``: one address for several languages; the served HTML is rewritten.
- ``sessions``: replaces the holder of what Gradio remembers of each page.
- ``session_owner``: knows which of Gradio's routes name a session or an event, and lets only its visitor in.
- ``buttons``: updates of buttons carry their words, and are left out where nothing changes.
- ``labels``: Gradio's own English labels, which the page's script replaces.
- ``environment``: what its import reads of the environment, where it keeps files, and that it writes no stubs.
- ``handlers``: wraps generators, because one that yields nothing would empty the page.

``tests/unit/test_gradio_contract.py`` checks each of these habits of Gradio's and says what must be looked at when one
has changed. They were read in Gradio 6.31.0.

One application is mounted for each language. Trying ``gr.I18n`` with a single one (6.31.0) showed:

- Labels, placeholders, infos, and the texts of buttons, tabs, accordions and choices are translated in the browser.
- Of several markers in one ``gr.HTML`` none is translated, nor is one whose quotes are escaped; a marker carries no
  fields ("3 of 20"). The twenty pieces of HTML with which the page begins would have to come by an event instead, after
  the page is seen, and every presenter would need the language with every call.
- The title keeps its raw marker, in the served HTML and afterwards.
- Keys share one space with Gradio's own messages: a key ``label`` is shown as ``[object Object]``.
- Gradio's own labels ("Copy", "More tabs", "range slider for …") stay English: they must be replaced all the same.
- Both catalogues travel with the page: 205 KB of HTML instead of 165.

The second application costs 0.4 s of one core while starting and 4.9 MB.
"""
