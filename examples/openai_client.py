"""An OpenAI client on a planner's endpoint: only the base URL is different.

planner serve &
OPENAI_BASE_URL=http://127.0.0.1:8800/v1 python examples/openai_client.py
"""

from __future__ import annotations

import os

import openai

PROMPT = "Calculate 58 - 3 * 6."

client = openai.OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8800/v1"),
    api_key=os.environ.get("PLANNER_API_KEY", "none"),
)
messages = [{"role": "user", "content": PROMPT}]

# Models are offered plain, and with budgets: NAME@8x is NAME with at most 8 times the cost of a greedy answer.
names = [model.id for model in client.models.list()]
plain = names[0]
print("models:", ", ".join(names))

# 1. Nothing but the model's name says what may be spent.
reply = client.chat.completions.create(model=f"{plain}@8x", messages=messages)
print("answer:", reply.choices[0].message.content)
print("tokens over all calls:", reply.usage.total_tokens)
print("plan:", reply.planner["plan"]["reason"])
print("spent:", reply.planner["flops"]["total"], "FLOPs;", reply.planner["outcome"])

# 2. The same by a field of the body, or by a header for every request: X-Planner-Budget.
reply = client.chat.completions.create(model=plain, messages=messages, extra_body={"budget": "32x"})
print("with 32x:", reply.planner["plan"]["strategy"], reply.planner["plan"]["hyperparameters"])

# 3. A stream: progress while several answers are drawn and compared, then the chosen one.
stream = client.chat.completions.create(
    model=f"{plain}@32x", messages=messages, stream=True, extra_body={"progress": True}
)
for chunk in stream:
    event = (getattr(chunk, "planner", None) or {}).get("event")
    if event is not None:
        print(f"[{event}]")
    for choice in chunk.choices:
        print(choice.delta.content or "", end="", flush=True)
print()

# 4. Say whether an answer was right: the decision log then shows when success drifts from what was profiled.
decision = reply.planner["decision_id"]
client.post("/feedback", cast_to=object, body={"decision_id": decision, "correct": True})
client.close()
