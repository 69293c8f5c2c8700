"""Credit: which token or answer deserves how much of a score. Pure functions of tensors, one file each.

gae               PPO's advantages of every token, with a value network
group             GRPO's: an answer against the mean of the answers to the same prompt
leave_one_out     RLOO's: an answer against the mean of the others
kl                estimators of the distance from the reference, as a reward and as a loss
payoffs           the payoff of an answer in a game of preferences (Nash-MD, the log-odds game)
overlong          a penalty on answers that come near the longest allowed
"""
