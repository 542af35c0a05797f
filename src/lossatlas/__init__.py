"""Loss Atlas: rough neural-network loss landscapes, what is said about them, and whether it holds."""
