"""A 5-gram model as a baseline: interpolated Kneser-Ney over the model's own tokens, counted on the training split.

Each order has one discount, n1 / (n1 + 2 n2). Needs NumPy; the counts are sorted arrays, so 6 M tokens take seconds.
"""

import numpy as np

BITS = 12  # of a token: five of them fit into one int64


def grams(tokens, order):
    """The packed n-grams that end at tokens order-1, order, ..."""
    out = np.zeros(len(tokens) - order + 1, np.int64)
    for at in range(order):
        out = (out << BITS) | tokens[at:len(tokens) - order + 1 + at].astype(np.int64)
    return out


class Order:
    """Counts of the n-grams of one order, and of their contexts."""

    def __init__(self, gram, count):
        self.gram, self.count = gram, count  # sorted by gram
        context = gram >> BITS
        self.context, first = np.unique(context, return_index=True)
        self.total = np.add.reduceat(count, first)
        self.types = np.diff(np.append(first, len(gram)))
        ones, twos = int((count == 1).sum()), int((count == 2).sum())
        self.discount = ones / (ones + 2 * twos) if ones else 0.5

    @staticmethod
    def find(table, values, keys):
        at = np.minimum(np.searchsorted(table, keys), len(table) - 1)
        return np.where(table[at] == keys, values[at], 0)

    def mix(self, gram, lower):
        """p(last token | context) given the probabilities of the order below."""
        count, context = self.find(self.gram, self.count, gram), gram >> BITS
        total, types = self.find(self.context, self.total, context), self.find(self.context, self.types, context)
        safe = np.maximum(total, 1)
        mixed = np.maximum(count - self.discount, 0) / safe + self.discount * types / safe * lower
        return np.where(total > 0, mixed, lower)


class KneserNey:
    def __init__(self, streams, vocabulary, order=5):
        """streams: arrays of tokens; n-grams do not cross from one to the next."""
        self.order, self.vocabulary, self.orders = order, vocabulary, {}
        highest = np.concatenate([grams(stream, order) for stream in streams])
        gram, count = np.unique(highest, return_counts=True)
        self.orders[order] = Order(gram, count)
        for lower in range(order - 1, 0, -1):  # below the highest: in how many contexts a gram was seen
            gram, count = np.unique(gram & ((1 << BITS * lower) - 1), return_counts=True)
            self.orders[lower] = Order(gram, count)

    def nats(self, tokens):
        """-log p of each token after the first order-1."""
        p = np.full(len(tokens) - self.order + 1, 1 / self.vocabulary)
        for order in range(1, self.order + 1):
            p = self.orders[order].mix(grams(tokens, order)[self.order - order:], p)
        return -np.log(p)
