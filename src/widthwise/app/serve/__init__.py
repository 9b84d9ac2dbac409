"""The picker: a local page on which one chooses memory against accuracy.

server(create_app([Path("runs/digits")], cache), port=8765).run()      # as `widthwise serve` does

server.py       how many may ask, and how long they may keep it waiting
guard.py        who may ask, and how much
runs_view.py    what a run folder shows, as data; reads files, computes nothing
words.py        what a smaller network gives up, in plain words
examples.py     examples of the task's test split, as JSON
drawing.py      what someone drew, as the data are
answers.py      what a network says of them
networks.py     networks of chosen sizes, in memory and as files, few at a time
app.py          the routes
page.*, chart.js, tryit.js   the page: plain JavaScript that asks the routes
"""
