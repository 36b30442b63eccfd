"""Conversations of several user turns, put turn by turn to a model that knows single prompts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from slm_benchmark.common.errors import NotApplicable
from slm_benchmark.engines.reasoning import without_reasoning

Message = dict[str, str]
"""``role`` (system, user or assistant) and ``content``."""


class NoChatTemplate(NotApplicable):
    """The model has no chat template, so it cannot be asked for a conversation."""


def conversation(turns: Sequence[str], settings: Mapping[str, Any]) -> str:
    """A conversation as the context of a request, which `ConversationLM` reads.

    Args:
        turns: What the user says, turn by turn.
        settings: Generation settings of this conversation, over those of its task.
    """
    return json.dumps({"turns": list(turns), "settings": dict(settings)}, ensure_ascii=False)


class ConversationLM(LM):  # type: ignore[misc]
    """A language model of the harness whose ``generate_until`` holds whole conversations.

    The context of a request is a `conversation`. All first turns are asked together, then all
    second ones, and so on; the history, with the model's own answers, stands in the model's chat
    template. The response is a JSON list of the answers. Everything else is what ``lm`` gives.

    Each turn is a request of ``lm`` under the conversation's own task and document: so its journal
    keeps every turn, and its marks of cut contexts and unfinished answers are by document.

    Args:
        lm: The model; each of its prompts is one turn with all that was said before.

    Raises:
        NoChatTemplate: when ``lm`` has none.
    """

    def __init__(self, lm: Any) -> None:
        super().__init__()
        self.lm = lm
        if not lm.chat_template(True):
            raise NoChatTemplate(
                "the model's tokenizer has no chat template, so a second turn cannot be asked",
                fix="run a chat model, or leave this task out",
            )

    def __getattr__(self, name: str) -> Any:
        if name == "lm":  # before __init__, as when unpickled
            raise AttributeError(name)
        return getattr(self.lm, name)

    @property
    def tokenizer_name(self) -> str:
        return str(self.lm.tokenizer_name)

    def chat_template(self, chat_template: bool | str = False) -> Any:
        return self.lm.chat_template(chat_template)

    def apply_chat_template(
        self, chat_history: list[Message], add_generation_prompt: bool = True
    ) -> str:
        return str(self.lm.apply_chat_template(chat_history, add_generation_prompt))

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> Any:
        return self.lm.loglikelihood(requests, disable_tqdm)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> Any:
        return self.lm.loglikelihood_rolling(requests, disable_tqdm)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The answers to all turns of each conversation, as JSON lists of texts.

        An answer has no white space around it, in the history as in the response.
        """
        conversations = [json.loads(request.args[0]) for request in requests]
        histories: list[list[Message]] = [[] for _ in conversations]
        for turn in range(max((len(one["turns"]) for one in conversations), default=0)):
            going_on = [i for i, one in enumerate(conversations) if turn < len(one["turns"])]
            prompts = []
            for i in going_on:
                histories[i].append({"role": "user", "content": conversations[i]["turns"][turn]})
                settings = {**requests[i].args[1], **conversations[i]["settings"]}
                prompts.append(self._request(requests[i], histories[i], settings))
            answers = self.lm.generate_until(prompts, disable_tqdm)
            for i, answer in zip(going_on, answers, strict=True):
                # Our engines have cut reasoning off; other models of the harness leave it.
                content = without_reasoning("", answer).strip()
                histories[i].append({"role": "assistant", "content": content})
        return [
            json.dumps(
                [said["content"] for said in history if said["role"] == "assistant"],
                ensure_ascii=False,
            )
            for history in histories
        ]

    def _request(
        self, whole: Instance, history: list[Message], settings: dict[str, Any]
    ) -> Instance:
        prompt = self.lm.apply_chat_template(history)
        return Instance("generate_until", whole.doc, (prompt, settings), whole.idx, whole.metadata)
