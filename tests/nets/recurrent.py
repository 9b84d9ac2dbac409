"""Recurrent networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nets.base import STEPS, Net, tokens


class Recurrent(nn.Module):
    """A classifier on the last step of any of torch's recurrent layers."""

    def __init__(self, rnn: nn.RNNBase, features: int) -> None:
        super().__init__()
        self.rnn = rnn
        self.fc = nn.Linear(features, 4)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.rnn(x)
        return self.fc(out[:, -1])


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 9)
        self.lstm = nn.LSTM(9, 8, num_layers=2, dropout=0.1, batch_first=True)
        self.fc = nn.Linear(8, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        out, _ = self.lstm(self.embed(tokens))
        return self.fc(out)


class CellLoop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden_size = 9
        self.cell = nn.LSTMCell(5, 9)
        self.fc = nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.size(0), self.hidden_size, device=x.device)
        c = torch.zeros(x.size(0), self.hidden_size, device=x.device)
        outputs = []
        for t in range(x.size(1)):
            h, c = self.cell(x[:, t], (h, c))
            outputs.append(self.fc(h))
        return torch.stack(outputs, dim=1)


class Seq2Seq(nn.Module):
    """Bahdanau attention: the decoder starts from the encoder's state and sees all its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.src_embed = nn.Embedding(11, 7)
        self.tgt_embed = nn.Embedding(13, 9)
        self.encoder = nn.LSTM(7, 8, batch_first=True)
        self.w_query = nn.Linear(8, 6, bias=False)
        self.w_key = nn.Linear(8, 6)
        self.v = nn.Linear(6, 1, bias=False)
        self.decoder = nn.LSTMCell(9 + 8, 8)
        self.mix = nn.Linear(8 + 8, 10)
        self.out = nn.Linear(10, 13)

    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
        memory, (h, c) = self.encoder(self.src_embed(src))
        h, c = h[-1], c[-1]
        keys = self.w_key(memory)
        embedded = self.tgt_embed(tgt)
        steps = []
        for t in range(tgt.size(1)):
            scores = self.v(torch.tanh(self.w_query(h).unsqueeze(1) + keys)).squeeze(-1)
            context = torch.bmm(scores.softmax(dim=1).unsqueeze(1), memory).squeeze(1)
            h, c = self.decoder(torch.cat([embedded[:, t], context], dim=1), (h, c))
            steps.append(self.out(torch.tanh(self.mix(torch.cat([h, context], dim=1)))))
        return torch.stack(steps, dim=1)


RECURRENT: tuple[Net, ...] = (
    Net("lstm", lambda: Recurrent(nn.LSTM(5, 8, batch_first=True), 8), STEPS, 1, "8"),
    Net("lstm_2", Tagger, tokens((11, (3, 7))), 2, "9, and 8 of both layers"),
    Net(
        "lstm_bidirectional",
        lambda: Recurrent(nn.LSTM(5, 7, batch_first=True, bidirectional=True), 14),
        STEPS,
        1,
        "7 of both directions",
    ),
    Net("gru", lambda: Recurrent(nn.GRU(5, 9, batch_first=True), 9), STEPS, 1, "9"),
    Net(
        "lstm_projected",
        lambda: Recurrent(nn.LSTM(5, 10, batch_first=True, proj_size=6), 6),
        STEPS,
        1,
        "projection 6; the cell state of 10 must stay the wider one",
    ),
    Net("lstm_cell", CellLoop, STEPS, 1, "9"),
    Net(
        "seq2seq",
        Seq2Seq,
        tokens((11, (3, 7)), (13, (3, 5))),
        5,
        "7, 9, hidden 8 (the state is handed over), attention 6, 10",
    ),
)
