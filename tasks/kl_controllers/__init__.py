"""How the coefficient of the KL penalty goes on after an iteration. The choice returns the next, a float, and takes:

- coefficient: that of the iteration which ended
- kl: KL(policy ‖ reference) that it measured, nats per answer
- samples: answers that it drew
"""
